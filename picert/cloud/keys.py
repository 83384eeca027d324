"""API keys: read once at start, kept as digests, compared in constant time. Nothing here logs."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import SecretStr

from picert.config import AccessConfig
from picert.errors import ConfigError

MIN_KEY_LEN = 16  # shorter ones can be guessed
_READABLE_BY_OTHERS = 0o007


@dataclass(frozen=True, slots=True)
class Keys:
    """Digests of the keys of users and of administrators; a key is never kept itself."""

    users: tuple[bytes, ...] = ()
    admins: tuple[bytes, ...] = ()

    @property
    def are_set(self) -> bool:
        """Clients must bring one."""
        return bool(self.users or self.admins)

    def is_admin(self, key: str) -> bool:
        """`key` opens every path."""
        return _is_among(key, self.admins)

    def is_user(self, key: str) -> bool:
        """`key` opens what is not an administrator's; an admin key does too."""
        return _is_among(key, self.users) | _is_among(key, self.admins)


def read_keys(config: AccessConfig) -> Keys:
    """The keys that flags, variables and files give. Raises ConfigError, never showing one."""
    return Keys(
        _digests("api-key", config.api_key, config.api_key_file),
        _digests("admin-api-key", config.admin_api_key, config.admin_api_key_file),
    )


def _is_among(key: str, digests: Iterable[bytes]) -> bool:
    """Every digest is compared, and to its end, so that the time tells nothing."""
    given = sha256(key.encode("utf-8", "replace")).digest()
    return any([hmac.compare_digest(given, digest) for digest in digests])


def _digests(name: str, key: SecretStr | None, path: str | None) -> tuple[bytes, ...]:
    given = [] if key is None else [key.get_secret_value()]
    if path is not None:
        given += _file_lines(name, Path(path))
        if not given:
            raise ConfigError(f"--{name}-file {path} holds no key: write one a line", param=name)
    for text in given:
        if len(text) < MIN_KEY_LEN or not text.isascii() or not text.isprintable() or " " in text:
            raise ConfigError(
                f"--{name}: a key of {len(text)} characters was given, wanted are at least "
                f"{MIN_KEY_LEN} printable ASCII ones without blanks: try `openssl rand -hex 24`",
                param=name,
            )
    return tuple(sha256(text.encode()).digest() for text in given)


def _file_lines(name: str, path: Path) -> list[str]:
    """Keys in a file that only its user and group may read."""
    try:
        if os.stat(path).st_mode & _READABLE_BY_OTHERS:
            raise ConfigError(
                f"--{name}-file {path} can be read by every user: chmod 600 it", param=name
            )
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--{name}-file {path}: {error}", param=name) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
