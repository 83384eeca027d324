"""EngineStats: counters and timings of one engine, read by policy, metrics and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field

_EMA_WEIGHT = 0.05  # of the newest step: the average follows about the last twenty

_FADE = 0.99  # a step later, of the longest so far


@dataclass(slots=True)
class Total:
    """A count of events and the sum of their values in seconds."""

    count: int = 0
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more event."""
        self.count += 1
        self.sum_s += seconds

    @property
    def mean_s(self) -> float:
        """Seconds per event, 0 before the first."""
        return self.sum_s / self.count if self.count else 0.0


@dataclass(slots=True)
class EngineStats:
    """Since the engine's start, unless a gauge. Only the engine writes; other threads may read."""

    steps: int = 0
    prompt_tokens: int = 0  # computed or found in the cache, of finished prompts
    cached_tokens: int = 0  # of those, found
    completion_tokens: int = 0
    preemptions: int = 0
    finished: dict[str, int] = field(default_factory=dict)  # finish reason -> requests
    step: Total = field(default_factory=Total)
    runner: Total = field(default_factory=Total)  # of each step, what the model took
    step_ema_s: float = 0.0
    longest_step_s: float = 0.0  # of about the last hundred
    first_token: Total = field(default_factory=Total)  # from arrival
    inter_token: Total = field(default_factory=Total)  # between tokens of one request
    request: Total = field(default_factory=Total)  # from arrival to the end
    num_running: int = 0  # gauges, as of the last step
    num_waiting: int = 0
    kv_usage: float = 0.0  # 0 to 1

    def record_step(self, seconds: float) -> None:
        """A step took this long."""
        self.steps += 1
        self.step.add(seconds)
        if self.steps == 1:
            self.step_ema_s = seconds
        self.longest_step_s = max(seconds, self.longest_step_s * _FADE)
        self.step_ema_s += _EMA_WEIGHT * (seconds - self.step_ema_s)

    def record_end(self, reason: str, seconds: float) -> None:
        """A request ended after this long."""
        self.finished[reason] = self.finished.get(reason, 0) + 1
        self.request.add(seconds)
