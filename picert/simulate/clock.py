"""An event loop whose time is virtual: when nothing is left to do it skips to the next timer.

So asyncio code runs unchanged, waits take no time, and what happens in which order depends on
nothing but the program. Nothing from outside can wake the loop: threads and sockets have no place
here.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_RESOLUTION_S = 1e-6  # timers within it go off together; a clock of some 10^9 s still shows it
Main = Callable[[], Coroutine[Any, Any, T]]


class _Skipper(selectors.SelectSelector):
    """Where the loop would sleep, `skip` is told for how long."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """No descriptor is ever ready. Raises RuntimeError where the loop would sleep for ever."""
        if timeout is None:
            raise RuntimeError("every task of the simulation waits, and no timer is set")
        self._skip(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Seconds of this loop pass only while all its tasks wait."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Skipper(self._pass))
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def _pass(self, seconds: float) -> None:
        self._now_s += seconds


def run(main: Main[T]) -> T:
    """What `main` returns, run to its end on a loop of its own; what it leaves behind is
    cancelled."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(_end_others())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _end_others() -> None:
    """Cancel every task but this one, and wait for their ends."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
