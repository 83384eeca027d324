"""Two cells beside each other: how sure it is that one's figures are better than the other's."""

from __future__ import annotations

from types import MappingProxyType

from picert.report.bootstrap import (
    Bounds,
    difference_of_means,
    ratio_of_medians,
    ratio_of_rates,
)
from picert.report.rows import Row

Pair = tuple[Row | None, Row | None]  # ours, and what it is held against
RATE, LATENCY, FIRST_TEXT = "requests_per_min", "latency_p50_ms", "first_text_p50_ms"
_OF_QUESTIONS = MappingProxyType({LATENCY: "latency_ms_of", FIRST_TEXT: "first_text_ms_of"})


def ratio_bounds(pair: Pair, figure: str) -> Bounds | None:
    """Of ours over theirs. A rate has bounds only where a fixed number of requests was always
    under way."""
    ours, theirs = pair
    if ours is None or theirs is None:
        return None
    if figure in _OF_QUESTIONS:
        name = _OF_QUESTIONS[figure]
        return ratio_of_medians(ours.numbers(name), theirs.numbers(name))
    if figure == RATE and ours.load == theirs.load == "saturated":
        name = "rate_latencies_ms"
        return ratio_of_rates(ours.series(name), theirs.series(name))
    return None


def score_bounds(pair: Pair) -> Bounds | None:
    """Of ours less theirs, in points."""
    ours, theirs = pair
    if ours is None or theirs is None:
        return None
    return difference_of_means(ours.numbers("score_of"), theirs.numbers("score_of"))


def told(bounds: Bounds | None) -> str:
    """An interval as it stands behind its figure."""
    return "" if bounds is None else f" [{bounds[0]:.2f}, {bounds[1]:.2f}]"
