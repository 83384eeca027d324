"""Figures of one cell (a mode under a load) from what its clients saw. What is missing is null, and
`missing` says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from pice.answers import Written
from pice.judge import Compared, Graded, Judge
from pice.load import Answered, LoadResult
from pice.mechanical import Mechanical, inspect
from pice.plan import Task
from pice.stats import mean_with_interval, percentile

CLOUD = "cloud"  # who wrote a segment that no edge did, as the service reports it
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell, and what came of it."""

    task: Task
    result: LoadResult
    link_bytes: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of the quality of one answer."""

    graded: Graded | None
    compared: Compared | None
    length_ratio: float | None  # of words to the direct answer's
    mechanical: Mechanical


def speed_row(cell: Cell) -> Row:
    """Rates, times, tokens, routes and failures."""
    answers = cell.result.answers
    good = [answer for answer in answers if answer.done is not None]
    latency_ms = [1000 * answer.latency_s for answer in good]
    first_ms = [1000 * a.first_text_s for a in good if a.first_text_s is not None]
    missing = {} if good else {"latency_p50_ms": "no answer came"}
    return {
        "num_questions": len(answers),
        "requests_per_min": _rounded(cell.result.requests_per_min, 3),
        "num_in_rate": len(cell.result.rate_latencies_s),
        "offered_per_min": _rounded(cell.result.offered_per_min, 3),
        "seconds": round(cell.result.seconds, 2),
        "latency_p50_ms": _rounded(percentile(latency_ms, 50)),
        "latency_p95_ms": _rounded(percentile(latency_ms, 95)),
        "first_text_p50_ms": _rounded(percentile(first_ms, 50)),
        "first_text_p95_ms": _rounded(percentile(first_ms, 95)),
        **_tokens(good),
        **_routes(good),
        "bytes_sent": cell.link_bytes,
        "bytes_per_answer": round(cell.link_bytes / cell.result.num_sent) if answers else None,
        "failures": len(answers) - len(good),
        "errors": dict(Counter(a.error for a in answers if a.error is not None).most_common(3)),
        "missing": missing,
        "rate_latencies_ms": [round(1000 * s) for s in cell.result.rate_latencies_s],
        "latency_ms_of": {a.question.id: _rounded(1000 * a.latency_s) for a in good},
        "first_text_ms_of": {
            a.question.id: _rounded(1000 * a.first_text_s)
            for a in good
            if a.first_text_s is not None
        },
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
    return {**sums, "answer_tokens_mean": _rounded(mean(lengths), 1) if lengths else None}


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
        "sketch_ms_mean": _rounded(1000 * mean(d.sketch_s for d in sketched)) if sketched else None,
        "queue_ms_mean": _rounded(1000 * mean(d.queue_s for d in dones)) if dones else None,
    }


def judge_cell(
    answers: Sequence[Written], judge: Judge | None, direct: Mapping[str, str], *, pairwise: bool
) -> list[tuple[Written, Judged]]:
    """Every answer beside its judgement. `direct` holds the direct answers, if these are others."""
    graded: Sequence[Graded | None] = [None] * len(answers)
    if judge is not None:
        graded = judge.grade_all([(answer.question, answer.text) for answer in answers])
    judged = []
    for answer, grade in zip(answers, graded, strict=True):
        other = direct.get(answer.question.id)
        compared = None
        if judge is not None and pairwise and other is not None:
            compared = judge.compare(answer.question, answer.text, other)
        ratio = None if not other else len(answer.text.split()) / max(1, len(other.split()))
        judged.append((answer, Judged(grade, compared, ratio, inspect(answer))))
    return judged


def quality_row(judged: Sequence[tuple[Written, Judged]]) -> Row:
    """Quality over all of a cell's answers, and class by class."""
    by_class: dict[str, list[tuple[Written, Judged]]] = {}
    for answer, of in judged:
        by_class.setdefault(answer.question.question_class, []).append((answer, of))
    return {
        **_quality([of for _, of in judged]),
        "by_class": {
            name: {
                "latency_p50_ms": _rounded(percentile([1000 * a.latency_s for a, _ in group], 50)),
                **_quality([of for _, of in group]),
            }
            for name, group in sorted(by_class.items())
        },
        "score_of": {
            answer.question.id: round(of.graded.score, 1)
            for answer, of in judged
            if of.graded is not None
        },
    }


def _quality(judged: Sequence[Judged]) -> Row:
    graded = [of.graded for of in judged if of.graded is not None]
    compared = [of.compared for of in judged if of.compared is not None]
    verdicts = Counter(of.verdict for of in compared)
    scores = mean_with_interval([g.score for g in graded])
    ratios = [of.length_ratio for of in judged if of.length_ratio is not None]
    return {
        "checklist_score": scores.row() if scores else None,
        "checklist_raw": _rounded(mean(g.raw for g in graded), 1) if graded else None,
        "checklist_yes": _rounded(mean(g.share_yes for g in graded), 1) if graded else None,
        "checklist_unclear": sum(g.num_unclear for g in graded),
        "pairwise": {
            **{name: verdicts[name] for name in ("win", "tie", "loss")},
            "swap_consistency": round(mean(c.is_consistent for c in compared), 3),
        }
        if compared
        else None,
        "length_to_direct": _rounded(mean(ratios), 3) if ratios else None,
        "mechanical": _mechanical([of.mechanical for of in judged]),
    }


def _mechanical(found: Sequence[Mechanical]) -> Row:
    """Means over the answers to which a check applies; None where it applies to none."""

    def share(of: Callable[[Mechanical], float | None]) -> float | None:
        values = [float(value) for m in found if (value := of(m)) is not None]
        return round(mean(values), 3) if values else None

    return {
        "truncated": share(lambda m: m.is_truncated),
        "coverage": share(lambda m: m.coverage),
        "duplication": share(lambda m: m.duplication),
        "contradictions": share(lambda m: m.contradictions),
        "exact": share(lambda m: m.is_exact),
        "code_runs": share(lambda m: m.code_runs),
    }


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
