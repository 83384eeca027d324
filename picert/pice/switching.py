"""Which of its models an edge should run now: large ones while there is time, small ones when not.

A pure decision over predictions and a clock that are passed in. Jobs that run keep their model, so
a switch never cuts one; it counts for those that are given out after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from picert.errors import ConfigError

_UP_SHARE = 0.5  # of the slack that a larger model may need: the gap keeps a level load in place


@dataclass(frozen=True, slots=True)
class Switch:
    """What to run from now on, and why."""

    model: str
    direction: Literal["up", "down"]
    reason: str


class ModelSwitch:
    """The model of one edge, over time.

    It runs the largest that is predicted to be done with what waits within `slack_s`. Down is when
    the one that runs would not be, up when a larger one would in half of that; and never again
    within `dwell_s` of the last switch.
    """

    def __init__(
        self,
        by_size: Sequence[str],
        slack_s: float,
        dwell_s: float,
        begins_with: str | None = None,
        switched_at: float | None = None,
    ) -> None:
        """`by_size`: the models, smallest first; it begins with the largest unless one is named,
        which it has run since `switched_at`. Raises ConfigError if there is none."""
        if not by_size:
            raise ConfigError("an edge holds no model: give it at least one")
        self._by_size = tuple(by_size)
        self._slack_s = slack_s
        self._dwell_s = dwell_s
        self._at = by_size.index(begins_with or by_size[-1])
        self._last_switch = switched_at

    @property
    def model(self) -> str:
        """What new jobs are given to."""
        return self._by_size[self._at]

    def may_switch(self, now: float) -> bool:
        """Its last switch is long enough ago."""
        last = self._last_switch
        return last is None or not 0 <= now - last < self._dwell_s

    def decide(self, done_s: Mapping[str, float], now: float) -> Switch | None:
        """Whether to switch. `done_s`: for each model the seconds until what waits would be done if
        it were run, its own loading among them; one that is missing cannot be run.
        """
        if not self.may_switch(now):
            return None
        current_s = done_s.get(self.model, float("inf"))
        if current_s > self._slack_s:
            return self._go_down(done_s, current_s, now)
        for at in range(len(self._by_size) - 1, self._at, -1):
            needed_s = done_s.get(self._by_size[at], float("inf"))
            if needed_s <= _UP_SHARE * self._slack_s:
                reason = f"it would be done in {needed_s:.1f} of {self._slack_s:g} s"
                return self._go(at, "up", reason, now)
        return None

    def _go_down(self, done_s: Mapping[str, float], current_s: float, now: float) -> Switch | None:
        """To the largest of the smaller ones that is in time, else to the one that is done first;
        not to one that would be no sooner."""
        smaller = [at for at in range(self._at) if self._by_size[at] in done_s]
        in_time = [at for at in smaller if done_s[self._by_size[at]] <= self._slack_s]
        soonest = min(smaller, key=lambda at: done_s[self._by_size[at]], default=None)
        at = max(in_time) if in_time else soonest
        if at is None or done_s[self._by_size[at]] >= current_s:
            return None
        reason = f"{self.model} would need {current_s:.1f} s for what waits, not {self._slack_s:g}"
        return self._go(at, "down", reason, now)

    def _go(self, at: int, direction: Literal["up", "down"], reason: str, now: float) -> Switch:
        self._at = at
        self._last_switch = now
        return Switch(self.model, direction, reason)
