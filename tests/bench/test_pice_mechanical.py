"""What is checked of an answer without a judge."""

from __future__ import annotations

import pytest
from pice.answers import Written
from pice.mechanical import Mechanical, code_survives, ends_in, inspect
from pice.sandbox import runs_clean

from picert.simulate.questions import Question

QUESTION = Question(id="q", question_class="generic", question="How does one stay well?")


def found(text: str, *points: tuple[str, str], finish: str = "stop") -> Mechanical:
    return inspect(Written(QUESTION, text, points, finish == "length", latency_s=1.0))


@pytest.mark.parametrize(
    ("text", "finish", "is_truncated"),
    [
        ("All is said.", "stop", False),
        ("All is said.", "length", True),
        ("And then we", "stop", True),
        ("```python\nx = 1\n```", "stop", False),
        ("", "stop", True),
    ],
)
def test_truncation(text: str, finish: str, is_truncated: bool) -> None:
    assert found(text, finish=finish).is_truncated == is_truncated


def test_coverage_is_of_the_points_by_their_texts() -> None:
    result = found("…", ("Regular sleep", "Sleep at regular hours."), ("Fresh food", "Walk a lot."))
    assert result.coverage == 0.5
    assert found("No points.").coverage is None


def test_neighbours_that_say_the_same_are_counted() -> None:
    same = "Walking for half an hour a day keeps the heart strong"
    result = found("…", ("A", f"{same}."), ("B", f"{same} and fit."), ("C", "Call your friends."))
    assert result.duplication == 0.5


def test_parts_of_a_direct_answer_are_its_list_items() -> None:
    same = "Walking for half an hour a day keeps the heart strong."
    assert found(f"1. {same}\n2. {same}\n3. Eat fresh food with much fibre.").duplication == 0.5


def test_point_and_text_that_count_differently_contradict() -> None:
    sleep = ("Sleep 7 to 9 hours a night", "Adults need 5 hours of sleep.")
    same = ("Sleep 7 to 9 hours a night", "Adults need 7 hours, some 9 hours.")
    assert found("…", sleep, same).contradictions == 1


@pytest.mark.parametrize(
    ("text", "result", "holds"),
    [
        ("So it costs\n**81 euros**.", "81", True),
        ("4 + 9 = 13.", "13", True),
        ("4 + 9 = 13.", "9", False),
        (r"The probability is $\frac{5}{36}$.", "5/36", True),
        ("10/72 of all", "5/36", True),
        ("It is 1,683.", "1683", True),
        ("It is 1684.", "1683", False),
        ("I do not know.", "3", False),
        ("1/0", "3", False),
    ],
)
def test_exact_result_is_looked_for_at_the_end(text: str, result: str, holds: bool) -> None:
    assert ends_in(text, result) == holds


def test_code_of_an_answer_runs_against_its_tests() -> None:
    question = Question(id="q", question_class="coding", question="?", tests="assert f(2) == 4")
    assert code_survives(question, "Here:\n```python\ndef f(x):\n    return 2 * x\n```\nDone.")
    assert not code_survives(question, "```python\ndef f(x):\n    return x\n```")
    assert not code_survives(question, "def f(x): return 2 * x")


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(1)",
        "x = bytearray(4 << 30)",
        "open('file', 'w').write('x' * 10000)",
        "import os; assert 'HOME' in os.environ",
    ],
)
def test_program_beyond_its_limits_does_not_survive(program: str) -> None:
    assert not runs_clean(program)
    assert runs_clean("print('fine')")
