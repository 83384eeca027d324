"""Which candidate Expansion of a segment goes into the answer, or none so that the cloud writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picert.messages import Expansion, Segment


@dataclass(frozen=True, slots=True)
class Context:
    """What a segment's candidates are judged against."""

    question: str
    outline: tuple[str, ...]  # all sketch lines known
    others: tuple[str, ...] = ()  # shaped texts of the other segments, as far as they are complete


@dataclass(frozen=True, slots=True)
class Choice:
    """The best candidate, or None if each has a veto (then the segment is to be repaired), and why."""

    expansion: Expansion | None
    confidence: float
    reasons: tuple[str, ...]


def confidence(expansion: Expansion, segment: Segment) -> float:
    """How far to trust a candidate, 0 to 1: the model's own probability, coverage of the segment, and length."""
    raise NotImplementedError


def vetoes(text: str, segment: Segment, context: Context) -> tuple[str, ...]:
    """Why `text` must not stand as the expansion of `segment`; empty if nothing speaks against it."""
    raise NotImplementedError


def choose(candidates: Sequence[Expansion], segment: Segment, context: Context) -> Choice:
    """The candidate without a veto that has the highest confidence."""
    raise NotImplementedError
