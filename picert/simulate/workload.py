"""What is asked and how long the texts are: a file of questions with lengths that were measured of
real answers. `fit` makes one from the answers that bench_pice.py keeps.

A length that was not measured is drawn from those that were, by the seed, and stays the same: real
models answer greedily here, so a question has one answer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec

from picert.errors import ConfigError
from picert.simulate.questions import Question

OWN_FILE = Path(__file__).parent / "workload.json"
_VERSION = 1
_ANY = "*"  # a model of which nothing was measured writes like one of the others


class Lengths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question: tokens of what was written for it, as far as that was measured."""

    id: str
    question_class: str = msgspec.field(name="class")
    question: str
    answer: int | None = None  # of the cloud's model, as it is shown
    lines: tuple[int, ...] = ()  # of its sketch, without their numbers
    whole: dict[str, int] = {}  # of a whole answer, by the edge's model
    expansions: dict[str, tuple[int, ...]] = {}  # of segments that this model wrote, in any order


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of questions."""

    version: int = _VERSION
    source: str  # where the lengths come from
    unfit: dict[str, float]  # share of a model's expansions that are not good enough
    questions: tuple[Lengths, ...]


def read_workload(path: Path) -> Workload:
    """Raises ConfigError for a file that cannot be read, is no workload or has too little in it."""
    try:
        workload = msgspec.json.decode(path.read_bytes(), type=Workload)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"workload {path}: {error}") from None
    if workload.version != _VERSION:
        raise ConfigError(f"workload {path}: version is {workload.version}, must be {_VERSION}")
    for name in ("answer", "lines", "whole", "expansions"):
        if not any(getattr(question, name) for question in workload.questions):
            raise ConfigError(f"workload {path}: no question has its {name}: measure at least one")
    return workload


class Writing:
    """The lengths of all texts, those that were measured and those that are drawn."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self._workload = workload
        self._seed = seed
        self._of = {question.id: question for question in workload.questions}
        every = workload.questions
        self._answers = [q.answer for q in every if q.answer]
        self._lines = [line for q in every for line in q.lines]
        self._whole = _by_model({m: [n] for m, n in q.whole.items()} for q in every)
        self._expansions = _by_model(q.expansions for q in every)

    def rng(self, *key: object) -> random.Random:
        """Chance that depends on the seed and `key` alone."""
        return random.Random("/".join(map(str, (self._seed, *key))))

    def answer(self, question_id: str) -> int:
        """Tokens of a direct answer."""
        known = self._of[question_id].answer
        return known or self.rng(question_id, "answer").choice(self._answers)

    def line(self, question_id: str, index: int) -> int:
        """Tokens of a line of the sketch."""
        known = self._of[question_id].lines
        if index < len(known):
            return known[index]
        return self.rng(question_id, "line", index).choice(self._lines)

    def whole(self, question_id: str, model: str) -> int:
        """Tokens of a whole answer of an edge's model."""
        known = self._of[question_id].whole.get(model)
        return known or self.rng(question_id, "whole", model).choice(_of_model(self._whole, model))

    def expansion(self, question_id: str, model: str, index: int, attempt: int) -> int:
        """Tokens of a segment's text."""
        known = self._of[question_id].expansions.get(model, ())
        rng = self.rng(question_id, "expansion", model, index, attempt)
        return rng.choice(known or _of_model(self._expansions, model))

    def is_unfit(self, question_id: str, model: str, index: int, attempt: int) -> bool:
        """Whether that text is none that can be shown."""
        unfit = self._workload.unfit
        share = unfit.get(model, mean(unfit.values()) if unfit else 0.0)
        return self.rng(question_id, "fit", model, index, attempt).random() < share


def _by_model(tables: Iterable[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {_ANY: []}
    for table in tables:
        for model, lengths in table.items():
            found.setdefault(model, []).extend(lengths)
            found[_ANY].extend(lengths)
    return found


def _of_model(pools: Mapping[str, Sequence[int]], model: str) -> Sequence[int]:
    return pools.get(model) or pools[_ANY]


# --- from measured answers ------------------------------------------------------------------------


def fit(
    questions: Sequence[Question],
    answers: Sequence[Mapping[str, Any]],
    count: Callable[[str], int],
    source: str,
) -> Workload:
    """A workload from lines of `bench_pice.py --answers` over `questions`, of any modes; `count`
    gives the tokens of a sketch line. Raises ConfigError where they tell too little."""
    of: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        if answer.get("error") is None:
            of.setdefault(str(answer["id"]), []).append(answer)
    workload = Workload(
        source=source,
        unfit=_unfit(answers),
        questions=tuple(_lengths(q, of[q.id], count) for q in questions if q.id in of),
    )
    if not workload.questions:
        raise ConfigError("no answer is to one of these questions: give the file they were from")
    return workload


def _lengths(
    question: Question, answers: Sequence[Mapping[str, Any]], count: Callable[[str], int]
) -> Lengths:
    direct = [a.get("tokens") or count(a["text"]) for a in answers if a["route"] == "direct"]
    whole: dict[str, int] = {}
    expansions: dict[str, list[int]] = {}
    lines: list[int] = []
    for answer in answers:
        segments = _segments(answer)
        if answer["route"] == "edge_only":
            whole.update({s["model"]: int(s["tokens"]) for s in segments if s["tokens"]})
        elif answer["route"] == "sketch":
            lines = max(lines, [count(str(s["line"])) for s in segments], key=len)
            for s in segments:
                if s["attempts"] == 1 and s["tokens"]:
                    expansions.setdefault(str(s["model"]), []).append(int(s["tokens"]))
    return Lengths(
        id=question.id,
        question_class=question.question_class,
        question=question.question,
        answer=direct[-1] if direct else None,
        lines=tuple(lines),
        whole=whole,
        expansions={model: tuple(sorted(found)) for model, found in expansions.items()},
    )


def _segments(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each with its line, and who wrote it in how many tokens; none where that was not kept."""
    lines = [line for line, _ in answer.get("points") or []]
    names = ("model", "tokens", "attempts")
    return [
        {"line": line, **dict(zip(names, writer, strict=True))}
        for line, writer in zip(lines, answer.get("writers") or [], strict=False)
    ]


def _unfit(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of texts that had no other candidate: those whose segment the cloud wrote in their stead."""
    fit: Counter[str] = Counter()
    unfit: Counter[str] = Counter()
    for answer in answers:
        if answer["route"] != "sketch":
            continue
        told = [str(reason) for reason in answer.get("reasons") or []]
        for segment in _segments(answer):
            if segment["attempts"] == 1:
                fit[segment["model"]] += 1
        for reason in told:
            if "the text of " in reason and not reason.endswith("the best there is goes out"):
                unfit[reason.partition("the text of ")[2].split(" ", 1)[0]] += 1
    return {
        model: round(unfit[model] / (fit[model] + unfit[model]), 4)
        for model in sorted({*fit, *unfit})
        if fit[model] + unfit[model] >= 8
    }
