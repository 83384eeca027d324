"""The cells of a table, and how many questions there is time for."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from pice.cells import Pace, fitted, timed_s
from pice.command_line import OWN_SET
from pice.plan import Plan, ablation_tasks, edges_of, names_of, target_tasks
from pice.system import Machines

from picert.errors import ConfigError
from picert.simulate.questions import CLASSES, SUITABLE, pick, read_questions

EDGES = edges_of("big,small")
PACE = Pace(start_s=10.0, alone_s=5.0, grade_s=2.0)


def plan() -> Plan:
    asked = read_questions(OWN_SET)
    tasks = tuple(target_tasks(EDGES))
    sets = dict.fromkeys(task.classes for task in tasks)
    return Plan(
        tasks=tasks,
        questions=MappingProxyType({names: tuple(pick(asked, names, None)) for names in sets}),
        asked=tuple(asked),
        machines=Machines(
            cloud_model="m",
            edges=EDGES,
            cpus_cloud=frozenset({0}),
            cpus_edge=frozenset({1}),
            max_tokens=256,
            deadline_s=60,
            link_delay_s=0,
        ),
        num_clients=16,
        seed=0,
        max_minutes=60,
    )


def test_edges_are_named_as_they_are_given() -> None:
    assert names_of(edges_of("a+b,c")) == ["a+b", "c"]


def test_no_cell_of_the_tables_is_measured_twice() -> None:
    for tasks in (target_tasks(EDGES), ablation_tasks(EDGES)):
        assert len(tasks) == len(set(tasks))


def test_each_ablation_has_its_whole_in_the_same_situation() -> None:
    tasks = ablation_tasks(EDGES)
    for task in tasks:
        assert replace(task, mode="pice") in tasks
    [switching] = [task for task in tasks if task.mode == "pice_no_switching"]
    assert switching.edges == (("big", "small"),)


def test_with_time_enough_all_questions_are_asked() -> None:
    whole = plan()
    found = fitted(whole, PACE, 1e6)
    assert {names: len(asked) for names, asked in found.questions.items()} == {
        names: len(asked) for names, asked in whole.questions.items()
    }


def test_questions_are_as_many_of_each_class_as_there_is_time_for() -> None:
    left_s = 45 * 60.0
    found = fitted(plan(), PACE, left_s)
    count = len(found.questions[CLASSES]) // len(CLASSES)
    assert 1 <= count < 10
    assert len(found.questions[SUITABLE]) == count * len(SUITABLE)
    grading_s = found.num_answers * PACE.grade_s
    assert timed_s(found, PACE) + grading_s <= left_s
    assert 60 * found.max_minutes == pytest.approx(left_s - grading_s)
    more = plan().of_each_class(count + 1)
    assert timed_s(more, PACE) + more.num_answers * PACE.grade_s > 0.9 * left_s


def test_without_time_for_one_question_it_is_said_how_long_that_takes() -> None:
    with pytest.raises(ConfigError, match=r"12 cells .* about \d+ min here, and 1 are left"):
        fitted(plan(), PACE, 60.0)
