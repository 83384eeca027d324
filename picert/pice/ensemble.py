"""Which candidate Expansion of a segment goes into the answer, or none so that the cloud writes it.

    conf = a * z_m(mean log-prob) + b * coverage + c * length_fit + d * consensus

Candidates come from different models or seeds. Log-probabilities of two models say different things
of the same text, so each is set against what is usual for its model. The vetoes are what keeps
garbage out of the answer, however sure its model was of it.

What the cloud's model thinks of the candidates, where it was asked, is a fifth term. One model is
asked of all, so they are set against each other. That tells which is better, not how good it is:
the term decides among candidates, while the floor is held against the other four.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from picert.config import PolicyConfig
from picert.messages import Calibration, Expansion, Segment
from picert.pice.wording import (
    content_words,
    has_chat_marker,
    has_loop,
    ngrams,
    recall,
    rouge_l,
    words,
)

_MIN_WORDS = 4
_MIN_NEW_WORDS = 2  # content words that the segment does not have
_SHARED_RUNS = 0.6  # share of a text's three-word runs found in another text: it is that text again
_MIN_PROMPT_WORDS = 6  # of the question; fewer in a row may be chance
_MIN_RULE_WORDS = 8  # of the rules and examples around it
_EXPECTED_WORDS = (12, 70)
_MAX_Z = 2.0  # a candidate further from its model's mean says no more than this
_MIN_SEEN = 8  # texts of a model before its own mean is believed
_MIN_STD = 0.05
_MIN_SPREAD = 0.2  # of the cloud's log-probabilities of candidates
NO_OPINIONS: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Context:
    """What a segment's candidates are judged against."""

    question: str
    outline: tuple[str, ...]  # all sketch lines known
    others: tuple[str, ...] = ()  # shaped texts of the other segments, as far as there are
    rules: tuple[str, ...] = ()  # what else stood in the prompt


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the terms of the confidence. Without other candidates there is no consensus: its weight
    goes to coverage and length, so that confidences stay comparable."""

    logprob: float = 0.1  # of one standard deviation
    coverage: float = 0.4
    length: float = 0.2
    consensus: float = 0.3
    check: float = 0.0  # of one standard deviation among the candidates

    @classmethod
    def of(cls, config: PolicyConfig) -> Weights:
        """As configured."""
        return cls(
            config.w_logprob,
            config.w_coverage,
            config.w_length,
            config.w_consensus,
            config.w_cloud_check,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The best candidate, or None if each has a veto or too little confidence (then the segment is
    to be repaired); why; and the best of what there is, for where it may not be repaired."""

    expansion: Expansion | None
    confidence: float
    reasons: tuple[str, ...]
    best: Expansion | None = None


class Calibrations:
    """What mean log-probability is usual for each model: measured beforehand, else learned from the
    texts that it wrote."""

    def __init__(self) -> None:
        self._measured: dict[str, Calibration] = {}
        self._seen: dict[str, tuple[int, float, float]] = {}  # count, mean, sum of squared errors

    def set(self, model: str, calibration: Calibration) -> None:
        """Measured by `picert profile`."""
        self._measured[model] = calibration

    def observe(self, model: str, mean_logprob: float) -> None:
        """One more text. What is no log-probability is left out."""
        if not (math.isfinite(mean_logprob) and mean_logprob <= 0.0):
            return
        count, mean, squares = self._seen.get(model, (0, 0.0, 0.0))
        count += 1
        error = mean_logprob - mean
        mean += error / count
        self._seen[model] = (count, mean, squares + error * (mean_logprob - mean))

    def z(self, model: str, mean_logprob: float) -> float:
        """Standard deviations over the model's usual, within bounds; 0 while that is unknown."""
        known = self._measured.get(model) or self._learned(model)
        if known is None or not math.isfinite(mean_logprob):
            return 0.0
        z = (mean_logprob - known.mean) / max(known.std, _MIN_STD)
        return min(max(z, -_MAX_Z), _MAX_Z)

    def _learned(self, model: str) -> Calibration | None:
        count, mean, squares = self._seen.get(model, (0, 0.0, 0.0))
        return Calibration(mean, math.sqrt(squares / count)) if count >= _MIN_SEEN else None


def confidence(
    expansion: Expansion,
    segment: Segment,
    others: Sequence[Expansion] = (),
    calibrations: Calibrations | None = None,
    weights: Weights | None = None,
) -> float:
    """How far to trust a candidate beside `others` of its segment, 0 to 1."""
    weights = weights or Weights()
    z = calibrations.z(expansion.model, expansion.mean_logprob) if calibrations else 0.0
    coverage = recall(segment.text, expansion.text)
    fit = weights.coverage * coverage + weights.length * _length_fit(expansion.text)
    known = weights.coverage + weights.length
    if others:
        agreement = [rouge_l(expansion.text, other.text) for other in others]
        fit += weights.consensus * sum(agreement) / len(agreement)
    elif known > 0:
        fit *= (known + weights.consensus) / known
    return min(1.0, max(0.0, fit + weights.logprob * z))


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
        (any(_shares_run(said, rule) for rule in context.rules), "contains prompt text"),
    )
    return tuple(reason for holds, reason in checks if holds)


class Judge:
    """Chooses among candidates, with what is known of the models that write them."""

    def __init__(self, weights: Weights, floor: float, calibrations: Calibrations) -> None:
        self.calibrations = calibrations
        self._weights = weights
        self._floor = floor

    def fit(
        self, candidates: Sequence[Expansion], segment: Segment, context: Context
    ) -> list[Expansion]:
        """The candidates without a veto, in order."""
        return [c for c in candidates if not _against(c, segment, context)]

    def choose(
        self,
        candidates: Sequence[Expansion],
        segment: Segment,
        context: Context,
        opinions: Mapping[int, float] = NO_OPINIONS,
    ) -> Choice:
        """The candidate without a veto that has the highest confidence, if that is not under the
        floor. `opinions` are log-probabilities by the cloud's model, by attempt; they count where
        every candidate without a veto has one. Learns nothing: `calibrations.observe` is the
        caller's."""
        against = [_against(candidate, segment, context) for candidate in candidates]
        reasons = [
            f"the text of {candidate.model} {reason}"
            for candidate, found in zip(candidates, against, strict=True)
            for reason in found
        ]
        fit = [c for c, found in zip(candidates, against, strict=True) if not found]
        if not fit:
            longest = max(candidates, key=lambda c: len(words(c.text)), default=None)
            spare = longest if longest and longest.text else None
            return Choice(None, 0.0, tuple(reasons) or ("there is no candidate",), spare)
        scores = [self._confidence(c, segment, fit) for c in fit]
        told = [opinions[c.attempt] for c in fit if c.attempt in opinions]
        lifts = among(told) if len(told) == len(fit) else [0.0] * len(fit)
        scored = list(zip(scores, lifts, fit, strict=True))
        able = [one for one in scored if one[0] >= self._floor] or scored
        score, _, best = max(able, key=lambda one: one[0] + self._weights.check * one[1])
        if score < self._floor:
            reasons.append(f"confidence {score:.2f} is under {self._floor:g}")
            return Choice(None, score, tuple(reasons), best)
        return Choice(best, score, (*reasons, f"confidence {score:.2f}"), best)

    def _confidence(
        self, candidate: Expansion, segment: Segment, fit: Sequence[Expansion]
    ) -> float:
        others = [other for other in fit if other is not candidate]
        return confidence(candidate, segment, others, self.calibrations, self._weights)


def among(opinions: Sequence[float]) -> list[float]:
    """One model's log-probabilities of texts as deviations from their mean, within bounds. Texts
    that differ by little are not set further apart than `_MIN_SPREAD` makes them."""
    mean = sum(opinions) / len(opinions)
    spread = math.sqrt(sum((x - mean) ** 2 for x in opinions) / len(opinions))
    return [min(max((x - mean) / max(spread, _MIN_SPREAD), -_MAX_Z), _MAX_Z) for x in opinions]


def _against(candidate: Expansion, segment: Segment, context: Context) -> tuple[str, ...]:
    """Why it must not stand."""
    found = vetoes(candidate.text, segment, context)
    return (*found, "is cut mid-word") if is_cut(candidate) else found


def is_cut(expansion: Expansion) -> bool:
    """Whether its budget ended the text inside a word or right after one."""
    return expansion.finish_reason == "length" and expansion.text[-1:].isalnum()


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


def _shares_run(said: list[str], rule: str) -> bool:
    runs = set(ngrams(words(rule), _MIN_RULE_WORDS))
    return bool(runs) and not runs.isdisjoint(ngrams(said, _MIN_RULE_WORDS))
