"""Which candidate Expansion of a segment goes into the answer, or none so that the cloud writes it.

There is one candidate per segment for now; the vetoes are what keeps garbage out of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from picert.messages import Expansion, Segment
from picert.pice.wording import (
    content_words,
    has_chat_marker,
    has_loop,
    ngrams,
    recall,
    words,
)

_MIN_WORDS = 4
_MIN_NEW_WORDS = 2  # content words that the segment does not have
_SHARED_RUNS = 0.6  # share of a text's three-word runs found in another text: it is that text again
_MIN_PROMPT_WORDS = 6  # of the question; fewer in a row may be chance
_EXPECTED_WORDS = (12, 70)
_WEIGHTS = (0.4, 0.4, 0.2)  # probability, coverage, length


@dataclass(frozen=True, slots=True)
class Context:
    """What a segment's candidates are judged against."""

    question: str
    outline: tuple[str, ...]  # all sketch lines known
    others: tuple[str, ...] = ()  # shaped texts of the other segments, as far as there are


@dataclass(frozen=True, slots=True)
class Choice:
    """The best candidate, or None if each has a veto (then the segment is to be repaired); why."""

    expansion: Expansion | None
    confidence: float
    reasons: tuple[str, ...]


def confidence(expansion: Expansion, segment: Segment) -> float:
    """How far to trust a candidate, 0 to 1: the model's own probability, coverage of the segment,
    and length. Comparable between candidates of one model only until models are calibrated."""
    probability = math.exp(min(0.0, expansion.mean_logprob))
    terms = (probability, recall(segment.text, expansion.text), _length_fit(expansion.text))
    return sum(weight * term for weight, term in zip(_WEIGHTS, terms, strict=True))


def vetoes(text: str, segment: Segment, context: Context) -> tuple[str, ...]:
    """Why `text` must not stand as the expansion of `segment`; empty if nothing speaks against."""
    said = words(text)
    if len(said) < _MIN_WORDS:
        return ("is empty" if not said else "is hardly a sentence",)
    new = set(content_words(text)) - set(words(segment.text))
    others = [line for line in context.outline if line != segment.text]
    checks = (
        (has_chat_marker(text), "contains a chat marker"),
        (has_loop(text), "repeats itself"),
        (len(new) < _MIN_NEW_WORDS, "adds nothing to its heading"),
        (any(_is_again(text, other) for other in context.others), "repeats another segment"),
        (_num_quoted(said, others) >= min(2, max(1, len(others))), "restates the sketch"),
        (_quotes(said, words(context.question), _MIN_PROMPT_WORDS), "contains the question"),
    )
    return tuple(reason for holds, reason in checks if holds)


def choose(candidates: Sequence[Expansion], segment: Segment, context: Context) -> Choice:
    """The candidate without a veto that has the highest confidence."""
    reasons: list[str] = []
    fit: list[tuple[float, Expansion]] = []
    for candidate in candidates:
        against = vetoes(candidate.text, segment, context)
        reasons += [f"the text of {candidate.model} {reason}" for reason in against]
        if not against:
            fit.append((confidence(candidate, segment), candidate))
    if not fit:
        return Choice(None, 0.0, tuple(reasons) or ("there is no candidate",))
    score, best = max(fit, key=lambda pair: pair[0])
    return Choice(best, score, (*reasons, f"confidence {score:.2f}"))


def _length_fit(text: str) -> float:
    """1 inside the expected range of words, falling in proportion outside."""
    shortest, longest = _EXPECTED_WORDS
    count = len(words(text))
    return min(1.0, count / shortest, longest / max(1, count))


def _is_again(text: str, other: str) -> bool:
    runs, known = set(ngrams(words(text), 3)), set(ngrams(words(other), 3))
    return bool(runs) and len(runs & known) >= _SHARED_RUNS * len(runs)


def _num_quoted(said: list[str], lines: Sequence[str]) -> int:
    """How many of `lines` (of at least two words) stand in the text word for word."""
    return sum(_quotes(said, words(line), 2) for line in lines)


def _quotes(said: list[str], line: list[str], min_words: int) -> bool:
    return len(line) >= min_words and tuple(line) in set(ngrams(said, len(line)))
