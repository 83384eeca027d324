"""What can be checked of an answer without a judge. Figures are shares from 0 to 1; None where a
check does not apply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from pice.answers import Written
from pice.sandbox import runs_clean
from picert.pice.wording import ngrams, recall, words
from picert.simulate.questions import Question

_SHARED_RUNS = 0.5  # of a part's three-word runs found in its neighbour: it says the same
_CLOSED = re.compile(r"[.!?…:)\]}\"'”’`|*。！？]\s*\Z")
_CODE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_PART = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•]|\d{1,2}[.)])\s)")
_COUNTED = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)[ -](?:to \d[\d.,]* )?([a-z]{3,})", re.I)
_FRACTION = re.compile(r"\\d?frac\{(\d+)\}\{(\d+)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")


@dataclass(frozen=True, slots=True)
class Mechanical:
    """Of one answer."""

    is_truncated: bool  # by its limit, or in the middle of a sentence
    coverage: float | None  # of the sketch's points by their expansions
    duplication: float | None  # neighbouring parts that say the same, of all neighbours
    contradictions: int | None  # points whose text counts the same thing differently
    is_exact: bool | None  # the known result is what the answer ends in
    code_runs: bool | None  # and survives its tests


def inspect(written: Written) -> Mechanical:
    """All checks of one answer."""
    question, text = written.question, written.text
    segments = [(point, said) for point, said in written.points if point]
    parts = [expansion for _, expansion in segments] if segments else _parts(text)
    return Mechanical(
        is_truncated=written.is_cut or not _CLOSED.search(text),
        coverage=_mean([recall(point, said) for point, said in segments]),
        duplication=_mean([float(_say_the_same(a, b)) for a, b in pairwise(parts)]),
        contradictions=sum(_contradicts(point, said) for point, said in segments)
        if segments
        else None,
        is_exact=None if question.answer is None else ends_in(text, question.answer),
        code_runs=None if question.tests is None else code_survives(question, text),
    )


def ends_in(text: str, result: str) -> bool:
    """Whether `result` is among the numbers of the last line that has any, after its last "="."""
    text = _FRACTION.sub(r"\1/\2", text.replace("$", "").replace("**", ""))
    for line in reversed(text.splitlines()):
        numbers = [_value(number) for number in _NUMBER.findall(line.rpartition("=")[2])]
        if numbers:
            return _value(result) in numbers
    return False


def code_survives(question: Question, text: str) -> bool:
    """Whether the answer's code blocks, together, pass the question's tests."""
    blocks = _CODE.findall(text)
    return bool(blocks) and runs_clean("\n".join(blocks) + "\n" + (question.tests or ""))


def _parts(text: str) -> list[str]:
    return [part for part in _PART.split(text) if len(words(part)) > 3]


def _say_the_same(a: str, b: str) -> bool:
    first, second = set(ngrams(words(a), 3)), set(ngrams(words(b), 3))
    shorter = min(len(first), len(second))
    return shorter > 0 and len(first & second) >= _SHARED_RUNS * shorter


def _contradicts(point: str, said: str) -> bool:
    """Whether a point and its text give different numbers of the same thing."""
    told, expanded = _counts(point), _counts(said)
    return any(
        not told[noun] & expanded[noun] for noun in told.keys() & expanded.keys() if told[noun]
    )


def _counts(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for number, noun in _COUNTED.findall(text):
        found.setdefault(noun.casefold().rstrip("s"), set()).add(number.replace(",", ""))
    return found


def _value(number: str) -> Fraction:
    over, _, under = number.replace(",", "").replace(" ", "").partition("/")
    divisor = Fraction(under) if under else Fraction(1)
    return Fraction(over) / divisor if divisor else Fraction(0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
