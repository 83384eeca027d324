"""Predicted length of a direct answer, learned while serving. One owned object, no global state."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

from picert.pice.router import QuestionClass, classify, is_one_fact

_WINDOW = 64  # answers remembered per kind of question
_BIAS_RATE = 0.05  # weight of a new answer
_MIN_SAMPLES = 5  # below this many the prior speaks
_WORD_BINS = (12, 40, 120)  # upper ends, in words of the question
_TOKENS_PER_WORD = 1.4
_PRIOR: dict[QuestionClass, int] = {  # tokens; median answers of small instruct models
    "generic": 260,
    "knowledge": 240,
    "roleplay": 220,
    "common-sense": 180,
    "fermi": 200,
    "counterfactual": 240,
    "coding": 280,
    "math": 200,
    "writing": 280,
}
_PRIOR_FACT = 30
_NUMBERS = {
    word: number
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
} | {"a": 1, "an": 1, "single": 1, "twelve": 12, "fifteen": 15, "twenty": 20}
_NUMBER = rf"(?P<number>\d{{1,4}}|{'|'.join(_NUMBERS)})"
_UNITS = {"word": _TOKENS_PER_WORD, "sentence": 25.0, "line": 18.0, "paragraph": 90.0}
_FORM = re.compile(
    rf"\b(?:in|with|using|at most|under|about|exactly|only|just|of|within)"
    rf"(?: (?:just|only|about|at most|under|a))* {_NUMBER}[ -]"
    r"(?P<unit>word|sentence|line|paragraph)s?\b"
)
_POINTS = re.compile(
    rf"\b(?:list|name|give(?: me)?|suggest|recommend|provide|describe|what are|outline|are|the)"
    rf"(?: \w+)?? {_NUMBER} (?:\w+[ -])?(?:\w+[ -])?\w{{2,}}s\b"
)
_BRIEF = re.compile(r"\b(?:briefly|in brief|in short|short answer|tl;?dr|concise(?:ly)?)\b")
_YES_NO = re.compile(r"\b(?:yes or no|true or false|just the answer|one[- ]word)\b")
TOKENS_PER_POINT = 37  # of a direct answer, the mean of 25 lists by Qwen2.5-Coder-1.5B


@dataclass(frozen=True, slots=True)
class LengthForecast:
    """Tokens of a direct answer: the median and the ninth decile."""

    p50: int
    p90: int


def requested_points(question: str) -> int | None:
    """The number of items that `question` asks for ("list 10 …", "three ways"), if it names one."""
    match = _POINTS.search(question.casefold())
    if match is None:
        return None
    number = _as_number(match["number"])
    return number if 2 <= number <= 100 else None


class LengthPredictor:
    """Running quantiles of answer lengths per question class and prompt-length bin; or a trained
    head (median and ninth decile of a question's answer), moved by how far it was off lately."""

    def __init__(self, trained: Callable[[str], tuple[float, float]] | None = None) -> None:
        self._trained = trained
        self._bias = 0.0  # mean of log(true / predicted) of the head
        self._seen: dict[tuple[QuestionClass, int, bool], deque[int]] = {}

    def predict(self, question: str) -> LengthForecast:
        """Forecast for `question`: an explicit cue in it wins, then the head, if there is one; then
        what was observed of its kind, then a prior."""
        cued = _cued_length(question)
        if cued is not None:
            return LengthForecast(cued, max(cued + 8, cued * 3 // 2))
        if self._trained is not None:
            p50, p90 = (max(1, round(n * exp(self._bias))) for n in self._trained(question))
            return LengthForecast(p50, p90)
        seen = self._seen.get(_kind(question), ())
        if len(seen) >= _MIN_SAMPLES:
            ordered = sorted(seen)
            return LengthForecast(_quantile(ordered, 0.5), _quantile(ordered, 0.9))
        prior = _PRIOR_FACT if is_one_fact(question) else _PRIOR[classify(question)]
        if _BRIEF.search(question.casefold()):
            prior = prior // 3
        return LengthForecast(prior, prior * 2)

    def observe(self, question: str, tokens: int) -> None:
        """Learn that the direct answer to `question` had `tokens` tokens. What a cue in the
        question decided says nothing of its kind and is left out."""
        if tokens < 1 or _cued_length(question) is not None or _BRIEF.search(question.casefold()):
            return
        if self._trained is not None:
            error = log(tokens / max(1.0, self._trained(question)[0]))
            self._bias += _BIAS_RATE * (min(max(error, -1.0), 1.0) - self._bias)
        self._seen.setdefault(_kind(question), deque(maxlen=_WINDOW)).append(tokens)


def _cued_length(question: str) -> int | None:
    """Tokens that the question itself prescribes, if it does."""
    text = question.casefold()
    if _YES_NO.search(text):
        return 4
    form = _FORM.search(text)
    if form:
        return max(2, round(_as_number(form["number"]) * _UNITS[form["unit"]]))
    points = requested_points(question)
    return None if points is None else 20 + points * TOKENS_PER_POINT


def _kind(question: str) -> tuple[QuestionClass, int, bool]:
    num_words = len(question.split())
    size = sum(num_words > end for end in _WORD_BINS)
    return classify(question), size, is_one_fact(question)


def _quantile(ordered: list[int], q: float) -> int:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def _as_number(word: str) -> int:
    return _NUMBERS[word] if word in _NUMBERS else int(word)
