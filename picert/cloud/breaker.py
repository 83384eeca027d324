"""Breaker: an edge that fails again and again gets no jobs for a while, then one to try.

Pure bookkeeping over a clock that is passed in. Losses of the link are not its business: an edge
that is gone has no breaker.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

FAILURES_TO_OPEN = 3  # in a row
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0

BreakerState = Literal["closed", "open", "trying"]


class Breaker:
    """Closed until FAILURES_TO_OPEN jobs in a row failed, then open for a pause that doubles each
    time; after it one job is let through, whose end decides."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._num_failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._opens_at = 0.0  # when the pause is over
        self._state: BreakerState = "closed"

    @property
    def state(self) -> BreakerState:
        """As of the last job's end."""
        return self._state

    def allows(self) -> bool:
        """A job may go to this edge now."""
        return self._state == "closed" or (
            self._state == "open" and self._clock() >= self._opens_at
        )

    def begin(self) -> None:
        """A job goes out; the first after a pause is the one to try with."""
        if self._state == "open":
            self._state = "trying"

    def succeed(self) -> None:
        """A job was delivered: all is well."""
        self._state = "closed"
        self._num_failures = 0
        self._pause_s = FIRST_PAUSE_S

    def fail(self) -> bool:
        """A job failed; True if the edge gets a pause by this."""
        self._num_failures += 1
        if self._state == "open" or self._num_failures < FAILURES_TO_OPEN:
            return False
        self._state = "open"
        # Edges that broke down together must not be tried together.
        self._opens_at = self._clock() + self._pause_s * self._rng.uniform(0.75, 1.25)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return True

    def forget_try(self) -> None:
        """The job to try with was cancelled by its owner: another may try."""
        if self._state == "trying":
            self._state = "open"
