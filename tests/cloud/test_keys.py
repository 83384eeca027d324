"""Keys from flags and files: what is taken, what is refused, and that none is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from picert.cloud.keys import Keys, read_keys
from picert.config import AccessConfig, build
from picert.errors import ConfigError

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"


def key_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_key_of_the_flag_and_keys_of_the_file_are_all_good(tmp_path: Path) -> None:
    path = key_file(tmp_path, f"# of the kitchen\n{OTHER}\n\n")
    keys = read_keys(AccessConfig(api_key=KEY, api_key_file=path))
    assert keys.is_user(KEY)
    assert keys.is_user(OTHER)
    assert not keys.is_user("# of the kitchen")
    assert not keys.is_user("")
    assert not keys.is_admin(KEY)


def test_admin_key_is_a_user_key_too() -> None:
    keys = read_keys(AccessConfig(admin_api_key=KEY))
    assert keys.are_set
    assert keys.is_user(KEY)
    assert keys.is_admin(KEY)


def test_without_keys_none_is_good() -> None:
    assert not Keys().are_set
    assert not Keys().is_user("")


def test_key_is_not_kept(tmp_path: Path) -> None:
    config = AccessConfig(api_key=KEY, admin_api_key_file=key_file(tmp_path, OTHER))
    assert KEY not in repr(config) + repr(read_keys(config)) + config.model_dump_json()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o666])
def test_file_that_every_user_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(AccessConfig(api_key_file=key_file(tmp_path, KEY, mode)))


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="holds no key"):
        read_keys(AccessConfig(api_key_file=key_file(tmp_path, text)))


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_keys(AccessConfig(api_key_file=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("key", ["short", "0123456789 abcdef", "0123456789abcdé!", ""])
def test_weak_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_keys(AccessConfig(api_key=key))
    assert not key or key not in caught.value.message


def test_malformed_key_is_not_shown_by_the_config() -> None:
    with pytest.raises(ConfigError) as caught:
        build(AccessConfig, {"api_key": ["secret-in-a-list"]})
    assert "secret" not in caught.value.message
