"""Admission: how many questions are in flight, and whether new ones are taken."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from picert.errors import Draining, QueueFull
from picert.patience import within


class Admission:
    """A bounded count that can be told to let nobody in any more. One event loop."""

    def __init__(self, limit: int, refused: Counter[str] | None = None) -> None:
        """`refused` is where those who get no place are counted, by the code they hear."""
        self._limit = limit
        self._refused: Counter[str] = Counter() if refused is None else refused
        self._num_inside = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one question. Raises Draining or QueueFull before anything was begun."""
        if self._is_draining:
            self._refused["draining"] += 1
            raise Draining("this cloud takes nothing new, it is about to stop: ask another one")
        if self._num_inside >= self._limit:
            self._refused["queue_full"] += 1
            raise QueueFull(
                f"{self._num_inside} requests are in flight, the limit is {self._limit}: "
                "try again later or raise max_num_requests"
            )
        self._num_inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_inside -= 1
            if not self._num_inside:
                self._idle.set()

    @property
    def num_inside(self) -> int:
        """Questions that have a place."""
        return self._num_inside

    @property
    def is_draining(self) -> bool:
        """Nobody is let in."""
        return self._is_draining

    def drain(self) -> None:
        """Let nobody in from now on; those inside go on."""
        self._is_draining = True

    def reopen(self) -> None:
        """Let questions in again."""
        self._is_draining = False

    async def wait_idle(self, timeout_s: float) -> bool:
        """Until nobody is inside; False after `timeout_s`."""
        with suppress(asyncio.TimeoutError):
            await within(timeout_s, self._idle.wait())
        return not self._num_inside
