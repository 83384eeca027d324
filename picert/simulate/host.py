"""Host: a machine on which several engines may run; those at work share it evenly.

Two edges whose processes are pinned to one core are two engines on one host. Engines of a host of
their own never wait for each other.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Run:
    """Work that a host does for one engine. Times are of the host's own progress."""

    began: float
    ends: float
    done: Callable[[], None]
    entry: int = -1  # of the heap; a run that was shortened or stopped has another, or none


class Host:
    """Processor sharing: with n runs on c cores each goes on at min(1, c / n) of its speed.

    `_progress` is the work that a run which was there from the start would have got; a run ends
    when that reaches its `ends`. So a change of n moves one timer and no run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, cores: int = 1) -> None:
        self._loop = loop
        self._cores = cores
        self._progress = 0.0
        self._at = loop.time()  # when `_progress` was right
        self._num_runs = 0
        self._heap: list[tuple[float, int, Run]] = []
        self._entries = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float, done: Callable[[], None]) -> Run:
        """`done` is called when as much was worked for it as takes `seconds` alone."""
        self._advance()
        run = Run(self._progress, self._progress + seconds, done)
        self._num_runs += 1
        self._push(run)
        return run

    def worked_s(self, run: Run) -> float:
        """Of a run's seconds, what is done."""
        self._advance()
        return self._progress - run.began

    def shorten(self, run: Run, seconds: float) -> None:
        """It shall take as many seconds in all; not fewer than are done."""
        self._advance()
        run.ends = max(self._progress, run.began + seconds)
        self._push(run)

    def stop(self, run: Run) -> None:
        """It is given up; `done` is not called."""
        self._advance()
        run.entry = -1
        self._num_runs -= 1
        self._set_timer()

    def _push(self, run: Run) -> None:
        run.entry = next(self._entries)
        heapq.heappush(self._heap, (run.ends, run.entry, run))
        self._set_timer()

    @property
    def _speed(self) -> float:
        return min(1.0, self._cores / self._num_runs) if self._num_runs else 0.0

    def _advance(self) -> None:
        now = self._loop.time()
        self._progress += (now - self._at) * self._speed
        self._at = now

    def _set_timer(self) -> None:
        while self._heap and self._heap[0][1] != self._heap[0][2].entry:
            heapq.heappop(self._heap)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            left_s = max(0.0, self._heap[0][0] - self._progress) / self._speed
            self._timer = self._loop.call_at(self._at + left_s, self._end_first)

    def _end_first(self) -> None:
        self._advance()
        self._timer = None
        ends, _, run = heapq.heappop(self._heap)
        self._progress = max(self._progress, ends)  # what rounding left over
        run.entry = -1
        self._num_runs -= 1
        self._set_timer()
        run.done()


class Chores:
    """Small work of a process beside its engine, one piece after the other, as one run."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._is_busy = False
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()

    def add(self, seconds: float, done: Callable[[], None]) -> None:
        """`done` is called when it is this piece's turn and it took its seconds."""
        if seconds <= 0 and not self._is_busy:
            done()
            return
        self._waiting.append((seconds, done))
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        self._is_busy = True
        seconds, done = self._waiting.popleft()
        self._host.begin(seconds, lambda: self._end(done))

    def _end(self, done: Callable[[], None]) -> None:
        self._is_busy = False
        if self._waiting:
            self._begin()
        done()
