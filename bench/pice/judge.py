"""Quality by a model that answers yes or no, and A or B; and the test that it must pass first.

Checklist: each check of a question is put to the judge beside the answer, and the probability of
"yes" against "no" is the score. Pairwise: an answer against the direct one in both orders; it wins
only if both orders say so, so a judge that prefers a place decides nothing. Who computes the
probabilities is pice/scorers.py's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, Protocol

from pice.questions import Question
from picert.messages import ChatMessage

Verdict = Literal["win", "tie", "loss"]
Labels = tuple[str, str]
YES_NO: Labels = ("yes", "no")
A_B: Labels = ("a", "b")
_NUM_SELF_TEST = 4  # questions
_MIN_REFERENCE_WORDS = 40
_TRUNCATED = 0.35  # of the words that are left
_GRADER = (
    "You grade answers to questions. You are strict: you say Yes only if the answer itself shows "
    "it. You reply with Yes or No and nothing else."
)
_CHOOSER = "You are a strict examiner."


class Scorer(Protocol):
    """The judge model."""

    def odds(
        self, chats: Sequence[Sequence[ChatMessage]], labels: Labels
    ) -> list[tuple[float, float] | None]:
        """For each chat the probabilities that the reply begins with either label; None where the
        model would say neither."""
        ...


@dataclass(frozen=True, slots=True)
class Graded:
    """A checklist's result, in points from 0 to 100."""

    score: float  # mean probability of yes
    share_yes: float  # of the checks for which yes is likelier
    num_unclear: int  # checks to which the judge said neither; they count as no


@dataclass(frozen=True, slots=True)
class Compared:
    """An answer against another, in both orders."""

    verdict: Verdict
    is_consistent: bool  # both orders agree on the same answer


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How the judge does on pairs whose result is known. Without `reasons` it is fit to judge."""

    num_pairs: int
    identical_ties: int
    truncated_losses: int
    padded_not_wins: int
    reference_score: float  # checklist points of references, whole …
    truncated_score: float  # … and cut

    @property
    def reasons(self) -> list[str]:
        """What it fails at."""
        n = self.num_pairs
        checks = (
            (n > 0, "there is no question with a reference to test it on"),
            (self.identical_ties == n, f"{n - self.identical_ties} identical pairs do not tie"),
            (
                2 * self.truncated_losses > n,
                f"only {self.truncated_losses} of {n} truncated lose",
            ),
            (self.padded_not_wins == n, f"{n - self.padded_not_wins} padded answers win"),
            (
                self.reference_score > self.truncated_score,
                "whole references score no higher than truncated ones",
            ),
        )
        return [reason for holds, reason in checks if not holds]


class Judge:
    """Grades and compares; the same text is never judged twice."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._graded: dict[tuple[str, str], Graded] = {}
        self._compared: dict[tuple[str, str, str], Compared] = {}

    def grade(self, question: Question, answer: str) -> Graded | None:
        """The checklist's result; None for a question without checks."""
        if not question.checks:
            return None
        key = (question.id, answer)
        if key not in self._graded:
            chats = [_grading(question, answer, check) for check in question.checks]
            odds = self._scorer.odds(chats, YES_NO)
            shares = [pair[0] / sum(pair) if pair else 0.0 for pair in odds]
            self._graded[key] = Graded(
                score=100 * mean(shares),
                share_yes=100 * mean(share > 0.5 for share in shares),
                num_unclear=odds.count(None),
            )
        return self._graded[key]

    def compare(self, question: Question, answer: str, other: str) -> Compared:
        """`answer` against `other`: a win or a loss only if both orders agree."""
        key = (question.id, answer, other)
        if key not in self._compared:
            chats = [_choosing(question, answer, other), _choosing(question, other, answer)]
            first, second = self._scorer.odds(chats, A_B)
            place_a = 0 if first is None else _sign(first[0] - first[1])
            place_b = 0 if second is None else _sign(second[1] - second[0])
            agree = place_a == place_b != 0
            verdict: Verdict = "tie" if not agree else "win" if place_a > 0 else "loss"
            self._compared[key] = Compared(verdict, agree)
        return self._compared[key]

    def self_test(self, questions: Sequence[Question]) -> SelfTest:
        """Pairs made of references: the same twice, one cut off, one padded."""
        fit = [q for q in questions if len((q.reference or "").split()) >= _MIN_REFERENCE_WORDS]
        fit = [q for q in fit if q.checks][:_NUM_SELF_TEST]
        whole = [q.reference or "" for q in fit]
        cut = [_truncated(text) for text in whole]
        identical = [self.compare(q, a, a).verdict for q, a in zip(fit, whole, strict=True)]
        pairs = list(zip(fit, whole, cut, strict=True))
        truncated = [self.compare(q, b, a).verdict for q, a, b in pairs]
        padded = [self.compare(q, _padded(a), a).verdict for q, a, _ in pairs]
        graded = [(self.grade(q, a), self.grade(q, b)) for q, a, b in pairs]
        scores = [(a.score, b.score) for a, b in graded if a is not None and b is not None]
        return SelfTest(
            num_pairs=len(fit),
            identical_ties=identical.count("tie"),
            truncated_losses=truncated.count("loss"),
            padded_not_wins=len(fit) - padded.count("win"),
            reference_score=round(mean(a for a, _ in scores), 1) if scores else 0.0,
            truncated_score=round(mean(b for _, b in scores), 1) if scores else 0.0,
        )


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _grading(question: Question, answer: str, check: str) -> list[ChatMessage]:
    """The check stands at the end, so that the checks of one answer share their beginning."""
    return [
        ChatMessage("system", _GRADER),
        ChatMessage(
            "user",
            f"Question: {question.question}\n\nAnswer:\n{answer or '(empty)'}\n\n"
            f"Is this true of the answer? {check}\nReply Yes or No.",
        ),
    ]


def _choosing(question: Question, first: str, second: str) -> list[ChatMessage]:
    """Of eight wordings tried, the one with which a 1.5B model lets no padded reference win and
    most truncated ones lose; asked for a grade it counts words."""
    return [
        ChatMessage("system", _CHOOSER),
        ChatMessage(
            "user",
            f"Question: {question.question}\n\n"
            f"[Answer A]\n{first or '(empty)'}\n[End of answer A]\n\n"
            f"[Answer B]\n{second or '(empty)'}\n[End of answer B]\n\n"
            "Which answer covers more of the question, correctly and without breaking off? Reply "
            "with the letter only.",
        ),
    ]


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
