"""Trains the heads on a cloud model's own answers, and measures them on questions not trained on.

What suits points is read off the answer itself: the model wrote it as a list of its own accord.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from picert.errors import ConfigError
from picert.pice.heads import NUM_FEATURES, Features, Heads, dot, features, logistic
from picert.pice.length import LengthPredictor
from picert.pice.router import suitability
from picert.pice.sketch import SketchParser

_NUM_EPOCHS = 150
_RATE = 0.1
_DECAY = 0.02  # of the weights, per example: there are more of them than questions
_NUM_FOLDS = 5
_MIN_POINTS = 3  # from which an answer is a list
_MAX_POINTS = 20
MIN_QUESTIONS = 20


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and what the cloud model answered."""

    question: str
    answer: str
    num_tokens: int

    @property
    def is_list(self) -> bool:
        """The model wrote points; code is none."""
        parser = SketchParser(_MAX_POINTS)
        parser.push(self.answer)
        parser.finish()
        return len(parser.segments) >= _MIN_POINTS and "```" not in self.answer


@dataclass(frozen=True, slots=True)
class Scores:
    """On questions not trained on: of the heads, and of the free features alone."""

    num_questions: int
    num_lists: int
    auc: float
    free_auc: float
    tau: float
    free_tau: float


def train(answered: Sequence[Answered]) -> tuple[Heads, Scores]:
    """Heads of all questions, and scores by five-fold cross-validation. Raises ConfigError for too
    few answers."""
    if len(answered) < MIN_QUESTIONS:
        raise ConfigError(
            f"{len(answered)} answers are too few to learn from, {MIN_QUESTIONS} are needed"
        )
    inputs = [features(item.question) for item in answered]
    lists = [float(item.is_list) for item in answered]
    lengths = [math.log1p(item.num_tokens) for item in answered]
    held_lists = _held_out(inputs, lists, logistic)
    held_lengths = _held_out(inputs, lengths, _same)
    errors = [held - true for held, true in zip(held_lengths, lengths, strict=True)]
    heads = Heads(
        suits=fit(inputs, lists, logistic),
        length=fit(inputs, lengths, _same),
        length_error=math.sqrt(sum(error * error for error in errors) / len(errors)),
    )
    free = [LengthPredictor().predict(item.question).p50 for item in answered]
    scores = Scores(
        num_questions=len(answered),
        num_lists=round(sum(lists)),
        auc=area_under_curve(held_lists, lists),
        free_auc=area_under_curve([suitability(item.question).score for item in answered], lists),
        tau=kendall_tau(held_lengths, lengths),
        free_tau=kendall_tau(free, lengths),
    )
    return heads, scores


def fit(
    inputs: Sequence[Features], targets: Sequence[float], link: Callable[[float], float]
) -> tuple[float, ...]:
    """Weights of link(w . x), by AdaGrad with decay, one example after the other in order. `link`
    is `logistic` (log loss) or the identity (squared error): both have the gradient (y' - y) x."""
    weights = [0.0] * NUM_FEATURES
    squares = [1e-8] * NUM_FEATURES
    for _ in range(_NUM_EPOCHS):
        for values, target in zip(inputs, targets, strict=True):
            error = link(dot(weights, values)) - target
            for index, value in values.items():
                slope = error * value + (_DECAY * weights[index] if index else 0.0)
                squares[index] += slope * slope
                weights[index] -= _RATE * slope / math.sqrt(squares[index])
    return tuple(weights)


def area_under_curve(scores: Sequence[float], labels: Sequence[float]) -> float:
    """Chance that a positive scores over a negative, ties counting half; 0.5 without both."""
    positive = [s for s, label in zip(scores, labels, strict=True) if label]
    negative = [s for s, label in zip(scores, labels, strict=True) if not label]
    if not (positive and negative):
        return 0.5
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Tau-b: agreement of two orders, -1 to 1, with ties allowed for; 0 where one is constant."""
    agreed = 0
    untied = [0, 0]
    for i in range(len(first)):
        for j in range(i):
            a, b = _sign(first[i] - first[j]), _sign(second[i] - second[j])
            agreed += a * b
            untied[0] += abs(a)
            untied[1] += abs(b)
    scale = math.sqrt(untied[0] * untied[1])
    return agreed / scale if scale else 0.0


def _held_out(
    inputs: Sequence[Features], targets: Sequence[float], link: Callable[[float], float]
) -> list[float]:
    """For each example, what weights say of it that were trained without it."""
    said = [0.0] * len(inputs)
    for fold in range(_NUM_FOLDS):
        others = [n for n in range(len(inputs)) if n % _NUM_FOLDS != fold]
        weights = fit([inputs[n] for n in others], [targets[n] for n in others], link)
        for n in range(fold, len(inputs), _NUM_FOLDS):
            said[n] = dot(weights, inputs[n])
    return said


def _same(value: float) -> float:
    return value


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
