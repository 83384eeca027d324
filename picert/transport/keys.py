"""Keys of the link: a pair for each end, and the cloud's list of edges that may connect.

Keys are Curve25519, written as 64 hex digits (ZeroMQ's own notation is full of quotes and dollars).
A secret key is in one file that only its user can read, and never in a log.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import zmq
from zmq.utils import z85

from picert.config import LinkConfig
from picert.errors import ConfigError
from picert.log import get_logger

logger = get_logger(__name__)
_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OTHERS = 0o077  # mode bits of everybody but the owner
ANY_NAME = ""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One end's keys."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What an edge connects with: its own pair, and the one cloud it believes."""

    own: KeyPair
    cloud: bytes


def new_pair() -> KeyPair:
    """A fresh pair from the system's random source."""
    public, secret = zmq.curve_keypair()
    return KeyPair(z85.decode(public), z85.decode(secret))


def write_pair(path: Path, pair: KeyPair) -> None:
    """The secret file at `path`, mode 0600. Raises ConfigError if something is there already."""
    text = f"# picert link key: keep this file to yourself\n{pair.secret.hex()}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists: give another path, or move it away first") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)


def read_pair(path: Path) -> KeyPair:
    """The pair of a secret file. Raises ConfigError, also where others can read it."""
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"link key {path}: {error}: make one with `picert keygen`") from None
    if stat.S_IMODE(mode) & _OTHERS:
        raise ConfigError(f"link key {path} can be read by other users: chmod 600 it")
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if len(found) != 1 or not _KEY.fullmatch(found[0]):
        raise ConfigError(f"link key {path} is no key file: make one with `picert keygen`")
    secret = bytes.fromhex(found[0])
    return KeyPair(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


def parse_public(text: str, name: str) -> bytes:
    """A public key as `picert keygen` prints it. Raises ConfigError."""
    if not _KEY.fullmatch(text.strip().lower()):
        raise ConfigError(
            f"{name} is {text[:80]!r}: give the 64 hex digits that `picert keygen` printed",
            param=name,
        )
    return bytes.fromhex(text.strip())


def peer_keys(config: LinkConfig) -> PeerKeys | None:
    """What an edge's config gives, None for a link without encryption. Raises ConfigError."""
    if config.link_key is None and config.cloud_key is None:
        return None
    if config.link_key is None:
        raise ConfigError("--cloud-key without --link-key: make a key with `picert keygen`")
    if config.cloud_key is None:
        raise ConfigError("--link-key without --cloud-key: give the cloud's public key")
    return PeerKeys(read_pair(Path(config.link_key)), parse_public(config.cloud_key, "cloud-key"))


def default_edges_file() -> Path:
    """The allow-list where none is named."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "picert" / "edges"


class AllowList:
    """Public keys of the edges that may connect, each with the name it must bear or ANY_NAME.

    The file has a line `KEY [NAME]` for each; it is read again when it has changed. A line that is
    not understood allows nobody and is logged; without the file nobody may connect.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._names: Mapping[bytes, str] = MappingProxyType({})

    @property
    def names(self) -> Mapping[bytes, str]:
        """Key -> name, as the file says now."""
        seen = self._identity()
        if seen != self._seen:
            self._names = MappingProxyType({} if seen is None else self._read())
            self._seen = seen
        return self._names

    def add(self, key: bytes, name: str = ANY_NAME) -> None:
        """Allow a key. Raises ConfigError (allowed already, or a name that no edge can have)."""
        if name and not _NAME.fullmatch(name):
            raise ConfigError(f"--name is {name!r}: give 1 to 64 letters, digits or . _ -")
        if key in self.names:
            raise ConfigError(f"{key.hex()} is in {self.path} already")
        self._write([*self._lines(), f"{key.hex()} {name}".rstrip()])

    def remove(self, key: bytes) -> None:
        """Revoke a key: a cloud that runs drops its edge. Raises ConfigError if it is not there."""
        lines = self._lines()
        kept = [line for line in lines if line.split()[:1] != [key.hex()]]
        if len(kept) == len(lines):
            raise ConfigError(f"{key.hex()} is not in {self.path}")
        self._write(kept)

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"edges file {self.path}: {error.strerror}") from None

    def _read(self) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        for number, line in enumerate(self._lines(), start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            name = words[1] if len(words) > 1 else ANY_NAME
            if (
                len(words) > 2
                or not _KEY.fullmatch(words[0])
                or (name and not _NAME.fullmatch(name))
            ):
                logger.error("%s line %d is not KEY [NAME]: it allows nobody", self.path, number)
                continue
            found[bytes.fromhex(words[0])] = name
        return found

    def _write(self, lines: list[str]) -> None:
        """All at once: whoever reads meanwhile sees the old file or the new one."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            draft.chmod(0o644 if not self.path.exists() else stat.S_IMODE(self.path.stat().st_mode))
            draft.replace(self.path)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from None
