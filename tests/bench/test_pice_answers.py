"""Answers are read as they were written; what cannot be is told with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pice.answers import append_answers, read_answers, written
from pice.plan import Task
from scripted_service import DONE

from picert.simulate.load import Answered, Load
from picert.simulate.questions import SUITABLE, Question

QUESTIONS = [
    Question(id="a", question_class="generic", question="Why?"),
    Question(id="b", question_class="knowledge", question="How?"),
]
EDGES = (("m",), ("n", "o"))
TASK = Task("pice", Load("light"), SUITABLE, EDGES)


def test_answers_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = [
        Answered(QUESTIONS[0], "Because.", 1.25, 0.5, DONE),
        Answered(QUESTIONS[1], "", 2.0, None, None, "it broke"),
    ]
    append_answers(path, TASK, answers)
    assert read_answers(path, QUESTIONS, ()) == {TASK: written(answers)}
    assert len(written(answers)) == 1


def test_later_answer_to_a_question_counts(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for text in ("First.", "Second."):
        append_answers(path, TASK, [Answered(QUESTIONS[0], text, 1.0, 0.5, DONE)])
    [[answer]] = read_answers(path, QUESTIONS, ()).values()
    assert answer.text == "Second."


def test_line_that_says_little_is_of_the_classes_and_edges_that_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = [{"mode": "x", "load": "half", "id": name, "text": "Yes."} for name in ("b", "a")]
    path.write_text("\n".join(map(json.dumps, lines)))
    [(task, answers)] = read_answers(path, QUESTIONS, EDGES).items()
    assert task == Task("x", Load("half", 0.5), ("generic", "knowledge"), EDGES)
    assert [answer.question.id for answer in answers] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1:"),
        ('{"mode": "x", "load": "light", "id": "a"}', "missing required field `text`"),
        ('{"mode": "x", "load": "storm", "id": "a", "text": ""}', "line 1: load 'storm'"),
        ('{"mode": "x", "load": "light", "id": "z", "text": ""}', "question 'z' is not in"),
        ("", "there is none in it"),
    ],
)
def test_file_that_is_wrong_is_told_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_answers(path, QUESTIONS, EDGES)
