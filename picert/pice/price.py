"""What a second of the cloud costs now: a dual variable that follows the cloud's backlog."""

from __future__ import annotations

_MAX_PRICE = 50.0
_MAX_STEP_S = 5.0  # a long pause between two looks counts as this, so that no price jumps


class BacklogPrice:
    """price <- max(0, price + rate * (backlog - target) * seconds since the last update).

    The price is in seconds of one user's waiting that a second of the cloud is worth. It rises
    while more work than `target_s` waits, holds at the target and falls below it; 0 when idle.
    """

    def __init__(self, target_s: float, rate: float) -> None:
        self._target_s = target_s
        self._rate = rate
        self._price = 0.0
        self._updated_at: float | None = None

    @property
    def price(self) -> float:
        """As of the last update."""
        return self._price

    def update(self, backlog_s: float, now: float) -> float:
        """The backlog has been `backlog_s` cloud seconds since the last update, up to `now` on any
        monotonic clock; returns the new price. A clock that goes back changes nothing."""
        last, self._updated_at = self._updated_at, now
        if last is not None:
            seconds = min(max(0.0, now - last), _MAX_STEP_S)
            step = self._rate * (max(0.0, backlog_s) - self._target_s) * seconds
            self._price = min(max(0.0, self._price + step), _MAX_PRICE)
        return self._price
