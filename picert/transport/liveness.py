"""Who is alive: beats in, states out. Pure bookkeeping over a clock that is passed in; no socket,
no task.

A state changes in two places only: `beat` makes a name alive, `tick` may degrade it. A tick that
comes late (the process was stopped, the event loop was busy, nobody read the socket) does not count
the time in which nobody listened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from picert.errors import ConfigError

State = Literal["alive", "probation", "dead"]
Clock = Callable[[], float]


class Liveness:
    """The states of a set of names, each of which ought to beat every `beat_s` seconds."""

    def __init__(self, beat_s: float, probation_beats: int, dead_beats: int, clock: Clock) -> None:
        """Raises ConfigError unless probation comes before death."""
        if not 1 <= probation_beats < dead_beats:
            raise ConfigError(
                f"dead_beats is {dead_beats}, must be over probation_beats ({probation_beats})"
            )
        self._beat_s = beat_s
        self._probation_s = probation_beats * beat_s
        self._dead_s = dead_beats * beat_s
        self._clock = clock
        self._last_tick = clock()
        self._last_beat: dict[str, float] = {}
        self._states: dict[str, State] = {}

    def add(self, name: str) -> None:
        """Watch `name`, alive from now; a known name starts afresh."""
        self._last_beat[name] = self._clock()
        self._states[name] = "alive"

    def remove(self, name: str) -> None:
        """Stop watching `name`; harmless when it is not known."""
        self._last_beat.pop(name, None)
        self._states.pop(name, None)

    def beat(self, name: str) -> None:
        """A sign of life: `name` is alive again, whatever it was. Unknown names are ignored."""
        if name in self._states:
            self.add(name)

    def state(self, name: str) -> State:
        """As of the last beat or tick; "dead" for a name that is not watched."""
        return self._states.get(name, "dead")

    def silence_s(self, name: str) -> float:
        """Seconds since the last beat of a watched name. Raises KeyError for other names."""
        return self._clock() - self._last_beat[name]

    def tick(self) -> list[str]:
        """Judge every name now; returns those that have just died (they stay until `remove`).

        To be called at least every two beats; what a call comes later than that is taken off
        everyone's silence.
        """
        now = self._clock()
        gap = now - self._last_tick
        self._last_tick = now
        if gap > 2 * self._beat_s:
            self._excuse(gap - self._beat_s, now)
        return [name for name in self._states if self._judge(name, now)]

    def _excuse(self, late_s: float, now: float) -> None:
        for name, last in self._last_beat.items():
            self._last_beat[name] = min(now, last + late_s)

    def _judge(self, name: str, now: float) -> bool:
        """Degrade one name if its silence says so; True if it died by this."""
        silence = now - self._last_beat[name]
        before = self._states[name]
        if silence >= self._dead_s:
            self._states[name] = "dead"
        elif silence >= self._probation_s:
            self._states[name] = "probation"
        return before != "dead" and self._states[name] == "dead"
