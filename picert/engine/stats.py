"""EngineStats: counters and timings of one engine, read by policy, metrics and benchmarks."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

_EMA_WEIGHT = 0.05  # of the newest step: the average follows about the last twenty
_FADE = 0.99  # a step later, of the longest so far
SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0),
)


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
class Histogram:
    """How many values fell between which bounds; a value on a bound is under it."""

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)  # of each bucket; the last has no upper bound
    count: int = 0
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value

    @property
    def mean(self) -> float:
        """Of all values, 0 before the first."""
        return self.sum / self.count if self.count else 0.0

    def cumulative(self) -> list[tuple[str, float]]:
        """Upper bound and number of values under it, as Prometheus has them."""
        rows: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows


@dataclass(slots=True)
class EngineStats:
    """Since the engine's start, unless a gauge. Only the engine writes; other threads may read."""

    steps: int = 0
    prompt_tokens: int = 0  # computed or found in the cache, of finished prompts
    cached_tokens: int = 0  # of those, found
    completion_tokens: int = 0
    preemptions: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits: int = 0  # of those, found
    finished: dict[str, int] = field(default_factory=dict)  # finish reason -> requests
    step: Total = field(default_factory=Total)
    runner: Total = field(default_factory=Total)  # of each step, what the model took
    sampler: Total = field(default_factory=Total)  # and what drawing took
    step_ema_s: float = 0.0
    longest_step_s: float = 0.0  # of about the last hundred
    queue: Histogram = field(default_factory=Histogram)  # from arrival to a place in a step
    prefill: Histogram = field(default_factory=Histogram)  # from there to the first token
    decode: Histogram = field(default_factory=Histogram)  # from there to the last token
    first_token: Histogram = field(default_factory=Histogram)  # from arrival
    inter_token: Histogram = field(default_factory=Histogram)  # between tokens of one request
    request: Histogram = field(default_factory=Histogram)  # from arrival to the end
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

    def record_first_token(self, queue_s: float, prefill_s: float) -> None:
        """A request got its first token after so long in the queue and so long in steps."""
        self.queue.add(queue_s)
        self.prefill.add(prefill_s)
        self.first_token.add(queue_s + prefill_s)

    def record_end(self, reason: str, seconds: float, decode_s: float | None) -> None:
        """A request ended after this long; `decode_s` from its first token to its last."""
        self.finished[reason] = self.finished.get(reason, 0) + 1
        self.request.add(seconds)
        if decode_s is not None:
            self.decode.add(decode_s)
