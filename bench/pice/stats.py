"""Percentiles, and means with bootstrap intervals; None where there is nothing to count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap interval over `n` values."""

    mean: float
    low: float
    high: float
    n: int

    def row(self) -> dict[str, float]:
        """As it stands in a line of JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


def mean_with_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """The mean, resampled with a fixed seed; None of no values."""
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = rng.choice(array, (_RESAMPLES, len(array))).mean(axis=1)
    tail = 100 * (1 - _LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    mean, low, high = (round(float(x), 2) for x in (array.mean(), low, high))
    return Interval(mean, low, high, len(array))
