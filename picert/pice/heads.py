"""Two small heads on a question's words: does it suit points, and how long is its direct answer.

Linear, on what costs nothing: the free features' own verdict, the class, the length of the question
and hashed words. They are trained on the answers of one cloud model (training.py) and are only that
model's; a cloud without them relies on the free features alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import get_args

import msgspec

from picert.pice.length import LengthPredictor
from picert.pice.router import QuestionClass, Suitability, suitability
from picert.pice.wording import content_words, ngrams

NUM_HASHED = 256
_CLASSES: tuple[QuestionClass, ...] = get_args(QuestionClass)
_NUM_PLAIN = 4  # bias, free verdict, free length, words
NUM_FEATURES = _NUM_PLAIN + len(_CLASSES) + NUM_HASHED
_MAX_ODDS = 6.0
_MAX_WORDS = 200  # of a question that are looked at
Features = Mapping[int, float]  # index -> value, those that are not 0


class Heads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights of both heads, and how far the length's logarithm was off on questions not trained
    on."""

    suits: tuple[float, ...]
    length: tuple[float, ...]
    length_error: float  # standard deviation

    def __post_init__(self) -> None:
        for name, weights in (("suits", self.suits), ("length", self.length)):
            if len(weights) != NUM_FEATURES or not all(map(math.isfinite, weights)):
                raise ValueError(f"head {name} must have {NUM_FEATURES} finite weights")
        if not 0 <= self.length_error < math.inf:
            raise ValueError("length_error is out of range")

    def suitability(self, question: str) -> Suitability:
        """The trained verdict, with the wording's reasons."""
        free = suitability(question)
        score = round(logistic(dot(self.suits, features(question))), 3)
        reasons = (f"trained {score:.2f}, by wording {free.score:.2f}", *free.reasons)
        return Suitability(score, free.question_class, reasons)

    def tokens(self, question: str) -> tuple[float, float]:
        """Median and ninth decile of a direct answer's length."""
        expected = min(max(dot(self.length, features(question)), 0.0), math.log(1e5))
        return math.expm1(expected), math.expm1(expected + 1.28 * self.length_error)


def features(question: str) -> Features:
    """Of any string."""
    free = suitability(question)
    words = content_words(question)[:_MAX_WORDS]
    odds = math.log((free.score + 1e-3) / (1 - free.score + 1e-3))
    found = {
        0: 1.0,
        1: min(max(odds, -_MAX_ODDS), _MAX_ODDS) / _MAX_ODDS,
        2: math.log1p(LengthPredictor().predict(question).p50) / 5.0,
        3: math.log1p(len(words)) / 3.0,
        _NUM_PLAIN + _CLASSES.index(free.question_class): 1.0,
    }
    grams = [*((word,) for word in words), *ngrams(words, 2)]
    for gram in grams:
        at = _NUM_PLAIN + len(_CLASSES) + zlib.crc32(" ".join(gram).encode()) % NUM_HASHED
        found[at] = found.get(at, 0.0) + 1.0 / math.sqrt(len(grams))
    return found


def dot(weights: Sequence[float], values: Features) -> float:
    """Of dense weights and sparse features."""
    return sum(weights[index] * value for index, value in values.items())


def logistic(odds: float) -> float:
    """Probability from log-odds, of any size."""
    return 1.0 / (1.0 + math.exp(-min(max(odds, -50.0), 50.0)))
