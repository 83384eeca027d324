"""Answers in a file: a line of JSON each, written while they are measured and read to be judged, so
that timing and judging can be done apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pice.plan import Task, edges_of, names_of
from pice.system import Edges
from picert.simulate.load import Answered, parse_load
from picert.simulate.questions import CLASSES, Question, name_of, parse_classes


@dataclass(frozen=True, slots=True)
class Written:
    """An answer as a judge sees it."""

    question: Question
    text: str
    points: tuple[tuple[str, str], ...]  # of its sketch, each with its expansion
    is_cut: bool  # by its limit
    latency_s: float


class Line(msgspec.Struct, kw_only=True):
    """One answer of one cell. What a line does not say is left open: answers of another make need
    only the first four."""

    mode: str
    load: str
    id: str
    text: str
    classes: str | None = None
    edge_models: list[str] | None = None
    latency_s: float = 0.0
    first_text_s: float | None = None
    route: str | None = None
    finish_reason: str | None = None
    reasons: list[str] | None = None
    points: list[tuple[str, str]] = []
    tokens: int | None = None  # of the answer
    writers: list[tuple[str, int, int]] = []  # of each point: model, tokens, attempts
    error: str | None = None


def written(answers: Sequence[Answered]) -> list[Written]:
    """Without failures, which have nothing to judge."""
    return [
        Written(
            question=answer.question,
            text=answer.text,
            points=tuple((s.text, s.expansion) for s in answer.done.segments),
            is_cut=answer.done.finish_reason == "length",
            latency_s=answer.latency_s,
        )
        for answer in answers
        if answer.done is not None
    ]


def append_answers(path: Path, task: Task, answers: Sequence[Answered]) -> None:
    """Every answer of a cell."""
    with path.open("ab") as file:
        for answer in answers:
            file.write(msgspec.json.encode(_line(task, answer)) + b"\n")


def read_answers(
    path: Path, questions: Sequence[Question], edges: Edges
) -> dict[Task, list[Written]]:
    """The answers of each cell, failures left out; of a question asked twice the last. `edges` are
    those of lines that name none. Raises ValueError with the line that is wrong."""
    known = {question.id: question for question in questions}
    cells: dict[tuple[str, ...], dict[str, Line]] = {}
    for line in _lines(path, known):
        key = (line.mode, line.load, line.classes or "", *(line.edge_models or ()))
        cells.setdefault(key, {})[line.id] = line
    found: dict[Task, list[Written]] = {}
    for cell in cells.values():
        lines = list(cell.values())
        asked = [known[line.id] for line in lines]
        found[_task(lines[0], asked, edges)] = [
            _written(line, question)
            for line, question in zip(lines, asked, strict=True)
            if line.error is None
        ]
    return found


def _lines(path: Path, known: Mapping[str, Question]) -> list[Line]:
    try:
        texts = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"answers {path}: {error.strerror}") from None
    found = []
    for number, text in enumerate(texts, start=1):
        try:
            line = msgspec.json.decode(text, type=Line)
            parse_load(line.load)
        except ValueError as error:
            raise ValueError(f"answers {path}, line {number}: {error}") from None
        if line.id not in known:
            raise ValueError(
                f"answers {path}, line {number}: question {line.id!r} is not in the file of "
                "questions: give the one they answer by --questions"
            )
        found.append(line)
    if not found:
        raise ValueError(f"answers {path}: there is none in it")
    return found


def _task(line: Line, asked: Sequence[Question], edges: Edges) -> Task:
    """The cell that a line is of; without its classes, those of the cell's questions."""
    there = {question.question_class for question in asked}
    classes = parse_classes(line.classes or ",".join(name for name in CLASSES if name in there))
    on = edges if line.edge_models is None else edges_of(",".join(line.edge_models))
    return Task(line.mode, parse_load(line.load), classes, on)


def _line(task: Task, answer: Answered) -> Line:
    line = Line(
        mode=task.mode,
        load=task.load.name,
        id=answer.question.id,
        text=answer.text,
        classes=name_of(task.classes),
        edge_models=names_of(task.edges),
        latency_s=round(answer.latency_s, 3),
        first_text_s=answer.first_text_s and round(answer.first_text_s, 3),
        error=answer.error,
    )
    if answer.done is not None:
        line.route = answer.done.route
        line.finish_reason = answer.done.finish_reason
        line.reasons = list(answer.done.reasons)
        line.points = [(s.text, s.expansion) for s in answer.done.segments]
        line.tokens = answer.done.completion_tokens
        line.writers = [(s.model, s.tokens, s.attempts) for s in answer.done.segments]
    return line


def _written(line: Line, question: Question) -> Written:
    is_cut = line.finish_reason == "length"
    return Written(question, line.text, tuple(line.points), is_cut, line.latency_s)
