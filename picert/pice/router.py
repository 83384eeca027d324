"""Does this question suit point-wise expansion? Features that cost nothing: wording, requests, length.

A sketch pays where the answer is several points that can be written apart. It does not where one step needs the one
before (code, math, estimates), where form is the point (a poem, a letter) or where the answer is one fact.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from picert.pice.wording import words

QuestionClass = Literal[
    *("generic", "knowledge", "roleplay", "common-sense", "fermi"),
    *("counterfactual", "coding", "math", "writing"),
]


@dataclass(frozen=True, slots=True)
class Suitability:
    """How well a question suits a sketch: a score from 0 to 1 and, per feature found, a reason."""

    score: float
    question_class: QuestionClass
    reasons: tuple[str, ...]


def suitability(question: str) -> Suitability:
    """Score `question` by its wording. Any string is fine; an empty one suits nothing."""
    raise NotImplementedError


def classify(question: str) -> QuestionClass:
    """The one of nine classes that the wording points to; `generic` where nothing stands out."""
    raise NotImplementedError
