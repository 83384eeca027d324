"""Is a judge fit? It judges texts whose result is known, made of the questions' references.

Grading and comparing are tested apart: a model may tell whether a statement is true of an answer
and yet prefer whatever answer it reads first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from pice.judge import Graded, Judge
from picert.simulate.questions import Question

_NUM_QUESTIONS = 4
_MIN_REFERENCE_WORDS = 40
_TRUNCATED = 0.35  # of the words that are left
_TOLD_APART = 20.0  # points between a reference and no answer, at least, before the correction
_AGAIN_POINTS = 1.0  # that the order of sums in another batch may move


@dataclass(frozen=True, slots=True)
class GradingTest:
    """How it grades. Without `fails` it is fit for that. Scores are means in points."""

    num_questions: int
    reference_score: float  # of references …
    truncated_score: float  # … cut off
    other_score: float  # … put under the next question
    reference_raw: float  # … not corrected for guessing …
    empty_raw: float  # … and of no answer, which is the guessing
    truncated_lower: int  # references that score higher than when they are cut off
    again_off: float  # points by which the same text differs when graded again, at most

    @property
    def fails(self) -> list[str]:
        """What it fails at."""
        n, whole = self.num_questions, self.reference_score
        return _failed(
            (n > 0, "there is no question with a reference to test it on"),
            (
                2 * self.truncated_lower > n,
                f"only {self.truncated_lower} of {n} references score higher than cut off",
            ),
            (
                whole > self.truncated_score,
                "whole references score no higher than truncated ones",
            ),
            (
                self.other_score <= whole / 2,
                f"answers to another question score {self.other_score:.0f} of {whole:.0f} points",
            ),
            (
                self.reference_raw - self.empty_raw >= _TOLD_APART,
                f"references get {self.reference_raw:.0f} points where no answer gets "
                f"{self.empty_raw:.0f}",
            ),
            (
                self.again_off <= _AGAIN_POINTS,
                f"the same text differs by {self.again_off:.1f} points when graded again",
            ),
        )

    def row(self) -> dict[str, Any]:
        """As it stands in a line of JSON."""
        return {**asdict(self), "fails": self.fails}


@dataclass(frozen=True, slots=True)
class ComparingTest:
    """How it compares. Without `fails` it is fit for that."""

    num_questions: int
    identical_ties: int
    truncated_losses: int
    padded_not_wins: int

    @property
    def fails(self) -> list[str]:
        """What it fails at."""
        n = self.num_questions
        return _failed(
            (n > 0, "there is no question with a reference to test it on"),
            (self.identical_ties == n, f"{n - self.identical_ties} identical pairs do not tie"),
            (
                2 * self.truncated_losses > n,
                f"only {self.truncated_losses} of {n} truncated lose",
            ),
            (self.padded_not_wins == n, f"{n - self.padded_not_wins} padded answers win"),
        )

    def row(self) -> dict[str, Any]:
        """As it stands in a line of JSON."""
        return {**asdict(self), "fails": self.fails}


def tried_grading(judge: Judge, questions: Sequence[Question]) -> GradingTest:
    """References whole, twice, cut off, under another question; and nothing."""
    fit = _fit(questions)
    whole = [q.reference or "" for q in fit]
    scores, again, cuts, others = (
        judge.grade_anew(list(zip(fit, texts, strict=True)))
        for texts in (whole, whole, [_truncated(text) for text in whole], _of_the_next(whole))
    )
    off = [abs(a.score - b.score) for a, b in zip(scores, again, strict=True)]
    return GradingTest(
        num_questions=len(fit),
        reference_score=_score(scores),
        truncated_score=_score(cuts),
        other_score=_score(others),
        reference_raw=_mean([graded.raw for graded in scores]),
        empty_raw=_mean([judge.guessed(question) for question in fit]),
        truncated_lower=sum(b.score < a.score for a, b in zip(scores, cuts, strict=True)),
        again_off=round(max(off, default=0.0), 1),
    )


def tried_comparing(judge: Judge, questions: Sequence[Question]) -> ComparingTest:
    """A reference against itself, cut off, and padded."""
    fit = [(q, q.reference or "") for q in _fit(questions)]
    identical = [judge.compare(q, text, text).verdict for q, text in fit]
    truncated = [judge.compare(q, _truncated(text), text).verdict for q, text in fit]
    padded = [judge.compare(q, _padded(text), text).verdict for q, text in fit]
    return ComparingTest(
        num_questions=len(fit),
        identical_ties=identical.count("tie"),
        truncated_losses=truncated.count("loss"),
        padded_not_wins=len(fit) - padded.count("win"),
    )


def _fit(questions: Sequence[Question]) -> list[Question]:
    """Some whose reference is long enough to be cut, and that have checks."""
    long = [q for q in questions if len((q.reference or "").split()) >= _MIN_REFERENCE_WORDS]
    return [q for q in long if q.checks][:_NUM_QUESTIONS]


def _failed(*checks: tuple[bool, str]) -> list[str]:
    return [reason for holds, reason in checks if not holds]


def _score(graded: Sequence[Graded]) -> float:
    return _mean([one.score for one in graded])


def _mean(points: Sequence[float]) -> float:
    return round(mean(points), 1) if points else 0.0


def _of_the_next(texts: Sequence[str]) -> list[str]:
    """Each text under another question; a single one has no other, and nothing stands for it."""
    return [*texts[1:], *texts[:1]] if len(texts) > 1 else [""] * len(texts)


def _truncated(text: str) -> str:
    """The beginning of a text, broken off in a sentence."""
    words = text.split()
    return " ".join(words[: max(1, round(_TRUNCATED * len(words)))]).rstrip(".")


def _padded(text: str) -> str:
    """A text that says nothing more, at twice the length."""
    return (
        f"{text} In other words, and to say it once more so that it is entirely clear: {text} "
        "All of this is important to keep in mind, and there is of course much that could be said."
    )
