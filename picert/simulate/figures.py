"""Figures of a load from what its clients saw, of a real system or a simulated one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np

from picert.simulate.load import Answered, LoadResult

CLOUD = "cloud"  # who wrote a segment that no edge did, as the service reports it
Row = dict[str, Any]


def figures(result: LoadResult) -> Row:
    """Rates, times, tokens, routes, failures. What is missing is null; `missing` says why."""
    answers = result.answers
    good = [answer for answer in answers if answer.done is not None]
    latency_ms = [1000 * answer.latency_s for answer in good]
    first_ms = [1000 * a.first_text_s for a in good if a.first_text_s is not None]
    missing = {} if good else {"latency_p50_ms": "no answer came"}
    return {
        "num_questions": len(answers),
        "requests_per_min": rounded(result.requests_per_min, 3),
        "num_in_rate": len(result.rate_latencies_s),
        "offered_per_min": rounded(result.offered_per_min, 3),
        "seconds": round(result.seconds, 2),
        "latency_p50_ms": rounded(percentile(latency_ms, 50)),
        "latency_p95_ms": rounded(percentile(latency_ms, 95)),
        "first_text_p50_ms": rounded(percentile(first_ms, 50)),
        "first_text_p95_ms": rounded(percentile(first_ms, 95)),
        **_tokens(good),
        **_routes(good),
        "failures": len(answers) - len(good),
        "errors": dict(Counter(a.error for a in answers if a.error is not None).most_common(3)),
        "missing": missing,
    }


def _tokens(good: Sequence[Answered]) -> Row:
    """Sums, at cloud and edges apart; lengths as a mean."""
    usages = [answer.done.usage for answer in good if answer.done is not None]
    sums = {
        name: sum(getattr(usage, field) for usage in usages)
        for name, field in (
            ("cloud_tokens", "cloud_completion_tokens"),
            ("edge_tokens", "edge_completion_tokens"),
            ("cloud_prompt_tokens", "cloud_prompt_tokens"),
            ("cloud_cached_tokens", "cloud_cached_tokens"),
            ("edge_prompt_tokens", "edge_prompt_tokens"),
        )
    }
    lengths = [answer.done.completion_tokens for answer in good if answer.done is not None]
    return {**sums, "answer_tokens_mean": rounded(mean(lengths), 1) if lengths else None}


def _routes(good: Sequence[Answered]) -> Row:
    """Shares of the routes taken, and what happened on the way of the sketched ones."""
    dones = [answer.done for answer in good if answer.done is not None]
    counts = Counter(done.route for done in dones)
    sketched = [done for done in dones if done.route == "sketch"]
    written = sum(done.completion_tokens for done in sketched)
    sketch = sum(done.usage.cloud_completion_tokens for done in sketched)
    segments = [segment for done in sketched for segment in done.segments]
    return {
        "routes": {route: round(n / len(dones), 3) for route, n in sorted(counts.items())},
        "sketch_ratio": round(sketch / written, 3) if written else None,
        "segments_mean": round(len(segments) / len(sketched), 2) if sketched else None,
        "segments_by_model": dict(Counter(s.model for s in segments if s.edge != CLOUD)),
        "repairs": sum(segment.edge == CLOUD for segment in segments),
        "fallbacks": counts["fallback"],
        "sketch_ms_mean": rounded(1000 * mean(d.sketch_s for d in sketched)) if sketched else None,
        "queue_ms_mean": rounded(1000 * mean(d.queue_s for d in dones)) if dones else None,
    }


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By linear interpolation; None of no values."""
    return float(np.percentile(values, percent)) if values else None


def rounded(value: float | None, digits: int = 1) -> float | None:
    """As it stands in a line of JSON."""
    return None if value is None else round(value, digits)
