"""How sure a comparison of two cells is: 95 % bootstrap intervals with a fixed seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_RESAMPLES = 2000
_SEED = 0
_TAIL = 2.5  # percent on either side
_LEAST = 4  # values, below which an interval would say nothing
Bounds = tuple[float, float]
Array = np.ndarray[Any, np.dtype[np.float64]]


def ratio_of_medians(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Bounds | None:
    """Of figures of the same questions, which are drawn together; None of too few."""
    drawn = _paired(ours, theirs)
    if drawn is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return _bounds(np.median(drawn[0], axis=1) / np.median(drawn[1], axis=1))


def difference_of_means(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Bounds | None:
    """Of figures of the same questions, which are drawn together; None of too few."""
    drawn = _paired(ours, theirs)
    return None if drawn is None else _bounds(drawn[0].mean(axis=1) - drawn[1].mean(axis=1))


def ratio_of_rates(ours_s: Sequence[float], theirs_s: Sequence[float]) -> Bounds | None:
    """Of requests in a time, from how long each took while as many were always under way; None of
    too few."""
    if min(len(ours_s), len(theirs_s)) < _LEAST:
        return None
    rng = np.random.default_rng(_SEED)
    ours, theirs = (
        rng.choice(np.asarray(values, np.float64), (_RESAMPLES, len(values))).mean(axis=1)
        for values in (ours_s, theirs_s)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return _bounds(theirs / ours)


def _paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[Array, Array] | None:
    """Resamples of the questions that both have, one a row."""
    names = sorted(ours.keys() & theirs.keys())
    if len(names) < _LEAST:
        return None
    picked = np.random.default_rng(_SEED).integers(len(names), size=(_RESAMPLES, len(names)))
    a, b = (np.array([table[name] for name in names], np.float64) for table in (ours, theirs))
    return a[picked], b[picked]


def _bounds(values: Array) -> Bounds | None:
    """None where a resample has no value, as with a time of zero."""
    if not np.isfinite(values).all():
        return None
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
    return float(low), float(high)
