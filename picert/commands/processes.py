"""Child processes: started, watched until ready, and always ended, by their own ids.

A child's log goes to a file of its own; when it dies, the last line of it says why.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from picert.errors import PicertError
from picert.patience import within

_STOP_S = 10.0  # from SIGTERM to SIGKILL
T = TypeVar("T")


async def until_told(work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None, with `work` ended, if SIGTERM or SIGHUP came first. SIGINT is
    asyncio's: it ends `work` as well.
    """
    working = asyncio.create_task(work)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Child:
    """One running server; `log` is the file of its stderr."""

    name: str
    process: Process
    log: Path

    async def ready_line(self, timeout_s: float) -> str:
        """What it says on stdout once it serves. Raises PicertError if it ends or says nothing in
        time.
        """
        assert self.process.stdout is not None
        try:
            line = await within(timeout_s, self.process.stdout.readline())
        except asyncio.TimeoutError:
            raise PicertError(
                f"{self.name} was not ready after {timeout_s:.0f} s: its log is {self.log}"
            ) from None
        if not line:
            raise await self.death(_STOP_S)
        return line.decode("utf-8", "replace").strip()

    async def finished(self, timeout_s: float) -> None:
        """Waits for a child that ends by itself. Raises PicertError if it fails, or not in time."""
        assert self.process.stdout is not None
        try:  # what it prints is read, or a full pipe would hold it
            await within(timeout_s, self.process.stdout.read())
        except asyncio.TimeoutError:
            raise PicertError(
                f"{self.name} was not done after {timeout_s:.0f} s: its log is {self.log}"
            ) from None
        death = await self.death(_STOP_S)
        if self.process.returncode != 0:
            raise death

    async def death(self, patience_s: float | None = None) -> PicertError:
        """Waits for its end, for ever or with patience, and tells how it came."""
        try:
            code = await within(patience_s, self.process.wait())
        except asyncio.TimeoutError:
            return PicertError(f"{self.name} closed its output and runs on: its log is {self.log}")
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "its log is empty")
        return PicertError(f"{self.name} ended with code {code}: {last.removeprefix('error: ')}")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for one that does not go."""
        for number, patience_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
            if self.process.returncode is not None:
                return
            self.process.send_signal(number)
            try:
                await within(patience_s, self.process.wait())
            except asyncio.TimeoutError:
                continue

    def kill(self) -> None:
        """SIGKILL, without waiting; nothing if it has ended."""
        if self.process.returncode is None:
            self.process.kill()


class Children:
    """An `async with` block of children: leaving it ends them all, in the reverse order of their
    start.
    """

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._children: list[Child] = []

    async def start(self, name: str, entry: str, flags: Sequence[str]) -> Child:
        """Run `entry` of picert.cli with `flags` as a process of its own."""
        code = f"import sys; from picert.cli import {entry}; sys.exit({entry}())"
        log = self._log_folder / f"{name}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code, *flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for us, who then end them in order
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def first_death(self) -> PicertError:
        """Waits until any child ends, and tells how."""
        waiting = [asyncio.create_task(child.death()) for child in self._children]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            for child in reversed(self._children):
                await child.stop()
        finally:  # also where a second Ctrl-C cuts the patience short
            for child in self._children:
                child.kill()
