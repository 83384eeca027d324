"""The benchmark's end of the pipe: starts an engine's process, asks it, and always ends it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from engines.protocol import Settings

LOAD_TIMEOUT_S = 300.0
CALL_TIMEOUT_S = 600.0
_BENCH = Path(__file__).parent.parent


class EngineFailed(Exception):
    """The engine is missing, could not do what was asked, or took too long; in one line."""


class EngineProcess:
    """One engine in a process of its own, on the processors `cpus`.

    Raises EngineFailed if it cannot be loaded.
    """

    def __init__(self, module: str, settings: Settings, cpus: set[int]) -> None:
        """Start `python -m engines.<module>` and wait until its model is loaded."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"engines.{module}", settings.to_json()],
            cwd=_BENCH,
            env={**os.environ, "OMP_NUM_THREADS": str(settings.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=partial(_pin, cpus),
        )
        try:
            self.load_s: float = self._reply(LOAD_TIMEOUT_S)["load_s"]
        except BaseException:
            self.stop()
            raise

    def call(self, op: str, **arguments: Any) -> Any:
        """What the operation returns. Raises EngineFailed."""
        assert self._process.stdin is not None
        line = json.dumps({"op": op, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError:
            raise EngineFailed(f"its process ended: {self._last_words()}") from None
        return self._reply(CALL_TIMEOUT_S)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reply(self, timeout_s: float) -> Any:
        reply = json.loads(self._line(time.monotonic() + timeout_s))
        if "error" in reply:
            raise EngineFailed(_one_line(reply["error"]))
        return reply["result"]

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise EngineFailed("no answer in time")
                part = os.read(self._process.stdout.fileno(), 1 << 20)
                if not part:
                    raise EngineFailed(f"its process ended: {self._last_words()}")
                line += part
        return line

    def _last_words(self) -> str:
        """The last line that the process wrote to stderr: of a traceback, the error."""
        self._process.wait(timeout=10)
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return _one_line(lines[-1]) if lines else f"exit status {self._process.returncode}"


def _pin(cpus: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
