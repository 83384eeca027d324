"""Children that end otherwise than they should: each wait for one has an end."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from picert.commands import processes
from picert.commands.processes import Child
from picert.errors import PicertError


@asynccontextmanager
async def child(folder: Path, code: str) -> AsyncIterator[Child]:
    log = folder / "log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-c", code), stdout=PIPE, stderr=stderr
        )
    started = Child("server", process, log)
    try:
        yield started
    finally:
        started.kill()
        await process.wait()


async def test_child_that_dies_before_it_is_ready_is_told_with_its_last_words(
    tmp_path: Path,
) -> None:
    async with child(tmp_path, "raise SystemExit('error: no such model')") as server:
        with pytest.raises(PicertError, match="server ended with code 1: no such model"):
            await server.ready_line(30)


async def test_child_that_closes_its_output_and_runs_on_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_S", 0.05)
    async with child(tmp_path, "import os, time; os.close(1); time.sleep(60)") as server:
        with pytest.raises(PicertError, match="server closed its output and runs on"):
            await server.ready_line(30)
