"""How long to wait before the next try. The random source is passed in; the waiting is not here."""

from __future__ import annotations

import random

FIRST_S = 0.05
LIMIT_S = 5.0


class Backoff:
    """Delays of 50 ms doubling to 5 s, each cut by up to half: edges must not knock as one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._full_s = FIRST_S

    def next_s(self) -> float:
        """The next delay in seconds: between half of the doubling series and all of it."""
        delay = self._full_s * self._rng.uniform(0.5, 1.0)
        self._full_s = min(2 * self._full_s, LIMIT_S)
        return delay

    def reset(self) -> None:
        """Begin again with the shortest delay, after a success."""
        self._full_s = FIRST_S
