"""The name of an edge that was given none: the host's, and a number drawn once and kept on disk.

The number's file is locked while its edge runs, so a second edge on the same machine gets another
one, and each gets its own back when it is started again.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import TextIO

from picert.errors import ConfigError

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_NUMBER = re.compile(r"[0-9a-f]{8}")
_MAX_EDGES = 256  # on one machine


def state_folder() -> Path:
    """Where this user's programs keep what should outlive them."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "picert"


class Identity:
    """A claimed number; `name` is this edge's as long as the block of it runs."""

    def __init__(self, folder: Path, host: str | None = None) -> None:
        """Claim the first number that no living edge has. Raises ConfigError."""
        self._file = _claim(folder)
        self._file.seek(0)
        number = self._file.read().strip()
        if not _NUMBER.fullmatch(number):
            number = secrets.token_hex(4)
            self._file.seek(0)
            self._file.truncate()
            self._file.write(number + "\n")
            self._file.flush()
        host = _NOT_IN_NAMES.sub("-", host or socket.gethostname())[:40] or "edge"
        self.name = f"{host}-{number}"

    def __enter__(self) -> Identity:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()  # and with it the lock


def _claim(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(_MAX_EDGES):
            file = (folder / f"edge-{index}").open("a+", encoding="ascii")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            return file
    except OSError as error:
        raise ConfigError(f"cannot keep a name in {folder}: {error}: give --name") from None
    raise ConfigError(f"{_MAX_EDGES} edges run on this machine already: give --name")
