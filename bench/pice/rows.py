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
from pice.mechanical import Mechanical, inspect
from pice.plan import Task
from pice.stats import mean_with_interval
from picert.simulate.figures import figures, percentile, rounded
from picert.simulate.load import LoadResult

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
    """Rates, times, tokens, routes and failures; times of each question, too."""
    result, answers = cell.result, cell.result.answers
    good = [answer for answer in answers if answer.done is not None]
    return {
        **figures(result),
        "bytes_sent": cell.link_bytes,
        "bytes_per_answer": round(cell.link_bytes / result.num_sent) if answers else None,
        "rate_latencies_ms": [round(1000 * s) for s in result.rate_latencies_s],
        "latency_ms_of": {a.question.id: rounded(1000 * a.latency_s) for a in good},
        "first_text_ms_of": {
            a.question.id: rounded(1000 * a.first_text_s)
            for a in good
            if a.first_text_s is not None
        },
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
                "latency_p50_ms": rounded(percentile([1000 * a.latency_s for a, _ in group], 50)),
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
        "checklist_raw": rounded(mean(g.raw for g in graded), 1) if graded else None,
        "checklist_yes": rounded(mean(g.share_yes for g in graded), 1) if graded else None,
        "checklist_unclear": sum(g.num_unclear for g in graded),
        "pairwise": {
            **{name: verdicts[name] for name in ("win", "tie", "loss")},
            "swap_consistency": round(mean(c.is_consistent for c in compared), 3),
        }
        if compared
        else None,
        "length_to_direct": rounded(mean(ratios), 3) if ratios else None,
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
