"""For every test: nothing that a test started may outlive it, and no module may be there twice."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_JOIN_S = 5.0
_WARM = ("asyncio_", "ThreadPoolExecutor", "pydevd", "tqdm")  # kept by libraries for the process


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Triton kernels are interpreted, but for `-m gpu`; must be known before triton is imported.

    This hook is no option but the first call of all: pytest loads the conftests of the folders that
    it is given before it configures anything, and some of them import triton.
    """
    config = pluginmanager.get_plugin("pytestconfig")
    assert isinstance(config, pytest.Config)
    if config.known_args_namespace.markexpr != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    """A thread that a test started and did not end fails it."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith(_WARM):
            thread.join(_JOIN_S)
            assert not thread.is_alive(), f"thread {thread.name} outlived its test"


@pytest.fixture(autouse=True, scope="session")
def no_process_outlives_the_session() -> Iterator[None]:
    """A child process that no test ended fails the session."""
    yield
    left = _children()
    assert not left, f"processes outlived the tests: {left}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The bare names of the mapped folders would be second copies of every module in them."""
    twice = {"kernels", "models"} & {name.split(".")[0] for name in sys.modules}
    if twice:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        raise RuntimeError(f"imported under their bare names: {sorted(twice)}: use picert.<name>")


def _children() -> list[str]:
    """Command lines of this process's children that still run, where /proc can tell."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in task.read_text(encoding="ascii").split():
            status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            if status.rpartition(")")[2].split()[0] != "Z":
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{pid}: {line.decode('utf-8', 'replace')[:200]}")
    return found
