"""Quality by a model that answers yes or no, and A or B.

Checklist: each check of a question is put to the judge beside the answer, and the probability of
"yes" against "no" counts, corrected for guessing: a small model says yes to nothing at all in two
cases of five, so what it gives to no answer is taken off, check by check, and the rest is stretched
to 100 points. Pairwise: an answer against the direct one in both orders; it wins
only if both orders say so, so a judge that prefers a place decides nothing. Who computes the
probabilities is pice/scorers.py's affair, and whether a judge is fit pice/self_test.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, Protocol

from picert.messages import ChatMessage
from picert.simulate.questions import Question

Verdict = Literal["win", "tie", "loss"]
Labels = tuple[str, str]
Odds = tuple[float, float] | None  # of either label; None where the model would say neither
YES_NO: Labels = ("yes", "no")
A_B: Labels = ("a", "b")
_MOST_GUESSED = 0.95  # probability of yes that is taken off at most
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

    score: float  # mean probability of yes beyond what no answer gets
    raw: float  # mean probability of yes
    share_yes: float  # of the checks for which yes is likelier
    num_unclear: int  # checks to which the judge said neither; they count as no


@dataclass(frozen=True, slots=True)
class Compared:
    """An answer against another, in both orders."""

    verdict: Verdict
    is_consistent: bool  # both orders agree on the same answer


class Judge:
    """Grades and compares; the same text is never judged twice."""

    def __init__(self, scorer: Scorer, clock: Callable[[], float] = time.monotonic) -> None:
        self._scorer = scorer
        self._clock = clock
        self._graded: dict[tuple[str, str], Graded] = {}
        self._guessed: dict[str, list[float]] = {}  # of each check of a question
        self._compared: dict[tuple[str, str, str], Compared] = {}
        self._num_graded, self._grading_s = 0, 0.0

    @property
    def grade_s(self) -> float:
        """Seconds for each answer graded so far."""
        return self._grading_s / max(1, self._num_graded)

    def grade(self, question: Question, answer: str) -> Graded | None:
        """The checklist's result; None for a question without checks."""
        [graded] = self.grade_all([(question, answer)])
        return graded

    def grade_all(self, answers: Sequence[tuple[Question, str]]) -> list[Graded | None]:
        """The results of many at once; the checks of one stand side by side in the batch, so that
        the scorer reads question and answer once for all of them."""
        new = {
            (question.id, text): question
            for question, text in answers
            if question.checks and (question.id, text) not in self._graded
        }
        found = self.grade_anew([(question, text) for (_, text), question in new.items()])
        self._graded.update(zip(new, found, strict=True))
        return [self._graded.get((question.id, text)) for question, text in answers]

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

    def guessed(self, question: Question) -> float:
        """Points, not corrected, that no answer gets of a question that was graded."""
        return 100 * mean(self._guessed[question.id])

    def grade_anew(self, answers: Sequence[tuple[Question, str]]) -> list[Graded]:
        """Graded now, whatever was graded before; every question has checks."""
        began = self._clock()
        new = {q.id: (q, "") for q, _ in answers if q.id not in self._guessed}
        asked = [*new.values(), *answers]
        chats = [_grading(q, text, check) for q, text in asked for check in q.checks]
        odds = iter(self._scorer.odds(chats, YES_NO) if chats else ())
        found = [[next(odds) for _ in question.checks] for question, _ in asked]
        for question_id, of_nothing in zip(new, found, strict=False):
            self._guessed[question_id] = [min(p, _MOST_GUESSED) for p in _shares(of_nothing)]
        self._grading_s += self._clock() - began
        self._num_graded += len(answers)
        return [
            _graded(of_one, self._guessed[question.id])
            for (question, _), of_one in zip(answers, found[len(new) :], strict=True)
        ]


def _graded(odds: Sequence[Odds], guessed: Sequence[float]) -> Graded:
    shares = _shares(odds)
    beyond = [max(0.0, p - q) / (1 - q) for p, q in zip(shares, guessed, strict=True)]
    return Graded(
        score=100 * mean(beyond),
        raw=100 * mean(shares),
        share_yes=100 * mean(share > 0.5 for share in shares),
        num_unclear=odds.count(None),
    )


def _shares(odds: Sequence[Odds]) -> list[float]:
    """Probabilities of yes; what the judge does not answer is no."""
    return [pair[0] / sum(pair) if pair else 0.0 for pair in odds]


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
