"""The benchmark's own questions are complete, their references are right, and wrong files are
refused with the line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pice.command_line import OWN_SET
from pice.mechanical import code_survives, ends_in

from picert.simulate.questions import (
    CLASSES,
    SUITABLE,
    Question,
    name_of,
    parse_classes,
    pick,
    read_questions,
)

QUESTIONS = read_questions(OWN_SET)


def test_own_set_has_ten_questions_of_each_class() -> None:
    assert Counter(q.question_class for q in QUESTIONS) == dict.fromkeys(CLASSES, 10)


def test_each_question_has_a_reference_and_five_to_eight_different_checks() -> None:
    for question in QUESTIONS:
        assert question.reference, question.id
        assert 5 <= len(question.checks) <= 8, question.id
        assert len(set(question.checks)) == len(question.checks), question.id
        assert all(check.endswith(".") for check in question.checks), question.id


def test_no_check_stands_twice_in_one_class_of_long_answers() -> None:
    for name in (*SUITABLE, "roleplay"):
        checks = [c for q in QUESTIONS if q.question_class == name for c in q.checks]
        assert len(set(checks)) == len(checks), name


def test_exact_results_end_their_references() -> None:
    exact = [q for q in QUESTIONS if q.answer is not None]
    assert {q.question_class for q in exact} == {"math"}
    assert len(exact) == 10
    assert [q.id for q in exact if not ends_in(q.reference or "", q.answer or "")] == []


def test_reference_programs_pass_their_tests_and_the_tests_can_fail() -> None:
    coding = [q for q in QUESTIONS if q.tests is not None]
    assert [q.question_class for q in coding] == ["coding"] * 10
    assert [q.id for q in coding if not code_survives(q, q.reference or "")] == []
    name = coding[0].question.split("function ")[1].split("(")[0]
    assert not code_survives(coding[0], f"```python\ndef {name}(*_):\n    return 12345\n```")


LINE = {"id": "a", "class": "math", "question": "What is 1 + 1?"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1"),
        ([{**LINE, "class": "riddles"}], "riddles"),
        ([{**LINE, "cheks": []}], "cheks"),
        ([{"id": "a", "class": "math"}], "question"),
        ([LINE, {**LINE, "question": "Another?"}], "line 2: id is that of line 1"),
        ([LINE, {**LINE, "id": "b"}], "line 2: question is that of line 1"),
        ([], "there is none"),
    ],
)
def test_wrong_file_is_refused_with_what_is_wrong(
    lines: list[object], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    with pytest.raises(ValueError, match=words):
        read_questions(path)


def test_line_may_lack_all_that_judges_it(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(LINE) + "\n\n")
    assert read_questions(path) == [
        Question(id="a", question_class="math", question="What is 1 + 1?")
    ]


def test_classes_have_names_for_sets() -> None:
    assert parse_classes("all") == CLASSES
    assert name_of(parse_classes("suitable")) == "suitable"
    assert parse_classes("math,generic") == ("generic", "math")
    assert name_of(("generic", "math")) == "generic,math"
    with pytest.raises(ValueError, match="'cooking' is unknown"):
        parse_classes("math,cooking")


def test_a_few_questions_are_of_as_many_classes_as_can_be() -> None:
    assert [q.question_class for q in pick(QUESTIONS, CLASSES, 9)] == list(CLASSES)
    assert len(pick(QUESTIONS, SUITABLE, None)) == 40
