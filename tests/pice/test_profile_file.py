"""The file of measured profiles: what is written is read, and only by the model it is of."""

from pathlib import Path

import pytest

from picert.errors import ConfigError
from picert.messages import Calibration
from picert.pice.profile_file import (
    ModelProfile,
    ProfileFile,
    profile_of,
    read_profiles,
    write_profiles,
)

PROFILE = ModelProfile(
    model="small",
    threads=2,
    load_s=0.5,
    prefill=((32, 1, 0.2), (256, 1, 1.0)),
    decode=((1, 64, 0.05), (8, 64, 0.1)),
    calibration=Calibration(-0.8, 0.2),
)
HASH = "ab" * 32


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    write_profiles(path, ProfileFile().with_model(HASH, PROFILE))
    assert profile_of(path, "small", HASH) == PROFILE
    assert PROFILE.speed().decode_seconds(1, batch=8) == pytest.approx(0.1)
    assert PROFILE.curve("mine").model == "mine"


def test_another_models_profile_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    write_profiles(path, ProfileFile().with_model(HASH, PROFILE))
    with pytest.raises(ConfigError, match=r"holds small .abababababab.*not large") as refused:
        profile_of(path, "large", "cd" * 32)
    assert "picert profile --model large" in refused.value.message
    assert "\n" not in refused.value.message


def test_models_of_one_machine_share_a_file_and_a_new_measurement_replaces_the_old() -> None:
    slower = ModelProfile(
        model="small", threads=1, load_s=0.5, prefill=PROFILE.prefill, decode=PROFILE.decode
    )
    both = ProfileFile().with_model(HASH, PROFILE).with_model("cd", PROFILE)
    assert both.with_model(HASH, slower).models == {HASH: slower, "cd": PROFILE}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "truncated"),
        ('{"version": 2}', "version is 2"),
        ('{"models": {"a": {"model": "m"}}}', "missing required field"),
        (
            '{"models": {"a": {"model": "m", "threads": 1, "load_s": 0,'
            ' "prefill": [[1, 1, 0.1], [2, 2, 0.1]], "decode": [[1, 1, 0.1]]}}}',
            "full grid",
        ),
        ('{"modells": {}}', "modells"),
    ],
)
def test_what_picert_did_not_write_is_refused_in_one_line(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "profiles.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as refused:
        read_profiles(path)
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ("[]", "object"),
        ('{"suits": [1.0]}', "missing required field `length`"),
        ('{"suits": [1.0], "length": [1.0], "length_error": 0.5}', "head suits must have"),
        ('{"suits": "all", "length": [], "length_error": 0.5}', "array"),
        ('{"suits": [], "length": [], "length_error": 0.5, "bias": 1}', "bias"),
    ],
)
def test_malformed_heads_are_refused_in_one_line(tmp_path: Path, heads: str, told: str) -> None:
    path = tmp_path / "profiles.json"
    write_profiles(path, ProfileFile().with_model(HASH, PROFILE))
    path.write_text(path.read_text().replace('"heads": null', f'"heads": {heads}'))
    with pytest.raises(ConfigError, match=told) as refused:
        profile_of(path, "small", HASH)
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message


def test_a_file_that_is_not_there_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profiles\.json"):
        read_profiles(tmp_path / "profiles.json")
    with pytest.raises(ConfigError, match="no_folder"):
        write_profiles(tmp_path / "no_folder" / "p.json", ProfileFile())
