"""Figures of a load from what its clients saw, of a real system or a simulated one."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from picert.messages import Done
from picert.simulate.load import Answered, LoadResult

CLOUD = "cloud"  # who wrote a segment that no edge did, as the service reports it
Row = dict[str, Any]
_USAGE = (
    ("cloud_tokens", "cloud_completion_tokens"),
    ("edge_tokens", "edge_completion_tokens"),
    ("cloud_prompt_tokens", "cloud_prompt_tokens"),
    ("cloud_cached_tokens", "cloud_cached_tokens"),
    ("edge_prompt_tokens", "edge_prompt_tokens"),
)


def figures(result: LoadResult) -> Row:
    """Rates, times, tokens, routes, failures. What is missing is null; `missing` says why."""
    sums = Figures()
    for answer in result.answers:
        sums.add(answer)
    return sums.row(result)


class Figures:
    """Adds up answers as they come: of each it keeps two times and no text, so that a million of
    them fit."""

    def __init__(self) -> None:
        self._num_answers = 0
        self._latency_ms = array("d")
        self._first_ms = array("d")
        self._errors: Counter[str] = Counter()
        self._routes: Counter[str] = Counter()
        self._usage: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()  # of answers; of sketches and what came of them
        self._writers: Counter[str] = Counter()  # segments by the model that wrote them
        self._num_segments = 0
        self._num_repairs = 0
        self._sketch_s = 0.0
        self._queue_s = 0.0

    def add(self, answer: Answered) -> None:
        """One answer more."""
        self._num_answers += 1
        if answer.error is not None:
            self._errors[answer.error] += 1
        if answer.done is None:
            return
        self._latency_ms.append(1000 * answer.latency_s)
        if answer.first_text_s is not None:
            self._first_ms.append(1000 * answer.first_text_s)
        self._add_done(answer.done)

    def _add_done(self, done: Done) -> None:
        self._routes[done.route] += 1
        self._queue_s += done.queue_s
        self._tokens["answer"] += done.completion_tokens
        for name, field in _USAGE:
            self._usage[name] += getattr(done.usage, field)
        if done.route != "sketch":
            return
        self._tokens["sketched"] += done.completion_tokens
        self._tokens["sketch"] += done.usage.cloud_completion_tokens
        self._sketch_s += done.sketch_s
        self._num_segments += len(done.segments)
        for segment in done.segments:
            if segment.edge == CLOUD:
                self._num_repairs += 1
            else:
                self._writers[segment.model] += 1

    def row(self, result: LoadResult) -> Row:
        """The figures of all of them, and of the load they came of."""
        return {
            "num_questions": self._num_answers,
            "requests_per_min": rounded(result.requests_per_min, 3),
            "num_in_rate": len(result.rate_latencies_s),
            "offered_per_min": rounded(result.offered_per_min, 3),
            "seconds": round(result.seconds, 2),
            "latency_p50_ms": rounded(percentile(self._latency_ms, 50)),
            "latency_p95_ms": rounded(percentile(self._latency_ms, 95)),
            "first_text_p50_ms": rounded(percentile(self._first_ms, 50)),
            "first_text_p95_ms": rounded(percentile(self._first_ms, 95)),
            **{name: self._usage[name] for name, _ in _USAGE},
            **self._route_figures(),
            "failures": self._num_answers - len(self._latency_ms),
            "errors": dict(self._errors.most_common(3)),
            "missing": {} if self._latency_ms else {"latency_p50_ms": "no answer came"},
        }

    def _route_figures(self) -> Row:
        """Shares of the routes taken, and what happened on the way of the sketched ones."""
        num_good, sketched = len(self._latency_ms), self._routes["sketch"]
        tokens, routes = self._tokens, sorted((+self._routes).items())
        return {
            "answer_tokens_mean": _ratio(tokens["answer"], num_good, 1),
            "routes": {name: round(n / num_good, 3) for name, n in routes},
            "sketch_ratio": _ratio(tokens["sketch"], tokens["sketched"], 3),
            "segments_mean": _ratio(self._num_segments, sketched, 2),
            "segments_by_model": dict(sorted(self._writers.items())),
            "repairs": self._num_repairs,
            "fallbacks": self._routes["fallback"],
            "sketch_ms_mean": _ratio(1000 * self._sketch_s, sketched, 1),
            "queue_ms_mean": _ratio(1000 * self._queue_s, num_good, 1),
        }


def _ratio(of: float, by: int, digits: int) -> float | None:
    return round(of / by, digits) if by else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By linear interpolation; None of no values."""
    return float(np.percentile(values, percent)) if values else None


def rounded(value: float | None, digits: int = 1) -> float | None:
    """As it stands in a line of JSON."""
    return None if value is None else round(value, digits)
