"""Runs a program that a model wrote: in a process of its own, in an empty folder, without
environment, with little time, memory and no files. It keeps accidents out, not an attacker."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile

_WALL_S = 10.0
_CPU_S = 5
_MEMORY_BYTES = 512 << 20


def runs_clean(program: str) -> bool:
    """Whether `program` ends with exit code 0 within its limits."""
    with tempfile.TemporaryDirectory(prefix="picert-code-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_limit,
        )
        try:
            return process.wait(_WALL_S) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _limit() -> None:
    for what, most in (
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))
