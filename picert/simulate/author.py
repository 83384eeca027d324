"""What simulated models write: words without meaning, in texts of the lengths of the workload.

They pass the real parser, shaper and vetoes as real texts do: a sketch is a numbered list, an
expansion takes up words of its line and says other things than its neighbours, and the share of the
workload's that is not fit goes round in circles. A text depends on the question and on who writes
it, so each is made up once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

from picert.messages import SamplingParams
from picert.simulate.engine import Script
from picert.simulate.workload import Writing

_MAX_LINES = 8  # of a sketch; who asked for fewer stops reading
_WORDS = tuple(
    f" {a}{b}{c}{d}" for a, b, c, d in product("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou")
)
_TAKEN_UP = 0.6  # share of its line's words that an expansion has
_LOGPROB_STD = 0.12  # of the means of texts, as calibration finds it
_LOGPROB_MEAN = -1.0


class CloudAuthor:
    """The cloud's model: whole answers, sketches, and segments that it repairs."""

    def __init__(self, writing: Writing, model: str) -> None:
        self._writing = writing
        self._model = model
        self._known: dict[tuple[str, str], list[str]] = {}  # by question and part

    def script(self, request_id: str, params: SamplingParams) -> Script:
        """Of `QUESTION.NUMBER/PART`, as the cloud's writer names its texts."""
        owner, _, part = request_id.rpartition("/")
        key = (question_of(owner), part)
        if key not in self._known:
            self._known[key] = self._text(*key)
        return _cut(self._known[key], params)

    def _text(self, question_id: str, part: str) -> list[str]:
        rng = self._writing.rng(question_id, part)
        if part == "sketch":
            return self._sketch(question_id)
        if part.startswith("repair-"):
            index = int(part.removeprefix("repair-"))
            length = self._writing.expansion(question_id, self._model, index, 0)
            return expansion(rng, length, line_of(self._writing, question_id, index))
        return _prose(rng, self._writing.answer(question_id) + 1)

    def _sketch(self, question_id: str) -> list[str]:
        """Its first number is in the prompt."""
        tokens: list[str] = []
        for index in range(_MAX_LINES):
            mark = ["\n", str(index + 1), "."] if index else []
            tokens += [*mark, *line_of(self._writing, question_id, index)]
        return [*tokens, ""]


class EdgeAuthor:
    """A model of edges': expansions, and whole answers."""

    def __init__(self, writing: Writing, model: str) -> None:
        self._writing = writing
        self._model = model
        self._known: dict[tuple[str, int, int, bool], tuple[list[str], float]] = {}

    def script(self, request_id: str, params: SamplingParams) -> Script:
        """Of `QUESTION.NUMBER/SEGMENT/ATTEMPT`, as an edge's worker names its texts. Only
        expansions have a stop: they are one paragraph."""
        owner, index, attempt = request_id.rsplit("/", 2)
        key = (question_of(owner), int(index), int(attempt), bool(params.stop))
        if key not in self._known:
            self._known[key] = self._text(*key)
        tokens, mean_logprob = self._known[key]
        return _cut(tokens, params, mean_logprob)

    def _text(
        self, question_id: str, index: int, attempt: int, is_expansion: bool
    ) -> tuple[list[str], float]:
        """Its tokens, and how sure the model is of them."""
        writing, model, place = self._writing, self._model, (index, attempt)
        rng = writing.rng(question_id, model, *place, is_expansion)
        mean_logprob = min(0.0, rng.gauss(_LOGPROB_MEAN, _LOGPROB_STD))
        if not is_expansion:
            return _prose(rng, writing.whole(question_id, model)), mean_logprob
        length = writing.expansion(question_id, model, *place)
        if writing.is_unfit(question_id, model, *place):
            return _round(rng, length), mean_logprob
        return expansion(rng, length, line_of(writing, question_id, index)), mean_logprob


def question_of(request_id: str) -> str:
    """The question that a request of this id asks."""
    return request_id.rpartition(".")[0]


def line_of(writing: Writing, question_id: str, index: int) -> list[str]:
    """A line of a question's sketch, the same for all who need it."""
    rng = writing.rng(question_id, "line", index, "words")
    return rng.sample(_WORDS, max(2, writing.line(question_id, index)))


def expansion(rng: random.Random, length: int, line: Sequence[str]) -> list[str]:
    """Two sentences that take up words of `line`, in another order."""
    tokens = _prose(rng, length)
    places = [at for at, token in enumerate(tokens) if token[:1] == " "]
    taken_up = rng.sample(line, round(_TAKEN_UP * len(line)))
    rng.shuffle(places)
    for at, word in zip(places, taken_up, strict=False):
        tokens[at] = word
    return tokens


def _prose(rng: random.Random, length: int) -> list[str]:
    """So many tokens, the end among them: sentences of up to some twenty words."""
    num_words = max(1, length - 1)
    tokens: list[str] = rng.choices(_WORDS, k=num_words)
    num_sentences = max(1, round(num_words / 20))
    for number in range(1, num_sentences + 1):
        tokens[max(1, round(num_words * number / num_sentences)) - 1] = "."
    return [*tokens, ""]


def _round(rng: random.Random, length: int) -> list[str]:
    """The same four words over and over."""
    words = rng.sample(_WORDS, 4)
    return [*(words[at % 4] for at in range(max(1, length - 1))), ""]


def _cut(tokens: Sequence[str], params: SamplingParams, mean_logprob: float = -1.0) -> Script:
    if len(tokens) <= params.max_tokens:
        return Script(tokens, "stop", mean_logprob)
    return Script(tokens[: params.max_tokens], "length", mean_logprob)
