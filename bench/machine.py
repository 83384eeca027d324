"""What a reader needs to place a figure: the machine, the versions, the commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np

import picert

_CPUINFO = Path("/proc/cpuinfo")
_ROOT = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    """Goes into every line of every benchmark."""
    return {
        "machine": _processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "picert": picert.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    """The tree's commit, with a + where files differ from it, or "unknown"."""
    git = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    """The processor's name; of several models with one name, the numbers tell which."""
    try:
        lines = _CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    names = ("model name", "cpu family", "model", "stepping")
    return " / ".join(fields[name] for name in names if name in fields) or platform.machine()
