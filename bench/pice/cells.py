"""The timed part: one fresh system for each cell, and how long all of them will take."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pice.plan import Classes, Plan, Task
from pice.rows import Cell, Row
from pice.system import run_until_told, running
from picert.errors import ConfigError, PicertError
from picert.patience import within
from picert.simulate.load import LoadGenerator, LoadResult

_EXPECTED_SHARE = 0.7  # of max_tokens that an answer uses
_EXPECTED_SPEED_UP = 4.0  # of a saturated cloud over one answer alone
_SPARE = 0.9  # of the time that is planned with


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds on this machine."""

    start_s: float  # of a system
    alone_s: float  # of a direct answer with nothing beside it
    grade_s: float = 0.0  # of an answer, by the judge


class Bench:
    """Runs cells one by one and remembers direct's saturated rates."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._direct_per_min: dict[Classes, float | None] = {}
        self._deadline = time.monotonic() + 60 * plan.max_minutes

    def cells(self) -> Iterator[Cell | Row]:
        """A cell, or the line of one that could not be measured, as they are done."""
        for task in self.plan.tasks:
            yield self._cell(task)

    def _cell(self, task: Task) -> Cell | Row:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            return {**task.head(), "skipped": "the time of --max-minutes is over"}
        if task.load.is_poisson and self._direct_per_min.get(task.classes) is None:
            return {**task.head(), "skipped": "direct's saturated rate is not known"}
        try:
            measuring = within(left_s, self._measure(task))
            result, link_bytes = run_until_told(measuring)
        except asyncio.TimeoutError:
            return {**task.head(), "skipped": "the time of --max-minutes ended it"}
        except PicertError as error:
            return {**task.head(), "skipped": " ".join(error.message.split())}
        if (task.mode, task.load.name) == ("direct", "saturated"):
            self._direct_per_min[task.classes] = result.requests_per_min
        return Cell(task, result, link_bytes)

    async def _measure(self, task: Task) -> tuple[LoadResult, int]:
        plan = self.plan
        machines = replace(plan.machines, edges=task.edges)
        with tempfile.TemporaryDirectory(prefix="picert-bench-") as folder:
            async with running(machines, task.mode, Path(folder)) as system:
                s_per_token = await system.warm_up()
                tell(
                    f"{task.mode} {task.load.name}: {s_per_token * 1000:.0f} ms per direct token "
                    "alone"
                )
                generator = LoadGenerator(
                    system.ask, time.monotonic, asyncio.sleep, plan.num_clients, plan.seed
                )
                before = system.num_link_bytes
                result = await generator.run(
                    task.load,
                    plan.questions[task.classes],
                    self._direct_per_min.get(task.classes),
                )
                return result, system.num_link_bytes - before


def measured_pace(plan: Plan) -> Pace:
    """On a system that is started for it. Raises PicertError."""

    async def speed() -> float:
        with tempfile.TemporaryDirectory(prefix="picert-bench-") as folder:
            async with running(plan.machines, "direct", Path(folder)) as system:
                return await system.warm_up()

    began = time.monotonic()
    s_per_token = run_until_told(speed())
    alone_s = s_per_token * plan.machines.max_tokens * _EXPECTED_SHARE
    return Pace(time.monotonic() - began, alone_s)


def timed_s(plan: Plan, pace: Pace) -> float:
    """Seconds that the timed runs would take if every mode were as slow as direct."""
    total = 0.0
    for task in plan.tasks:
        num_questions = len(plan.questions[task.classes])
        in_batches = max(num_questions, 2 * plan.num_clients) + plan.num_clients
        work = num_questions if task.load.name == "light" else in_batches / _EXPECTED_SPEED_UP
        total += work * pace.alone_s + pace.start_s
    return total


def fitted(plan: Plan, pace: Pace, left_s: float) -> Plan:
    """The plan with as many questions of each class as can be asked and graded in `left_s`, and
    with what grading leaves of it for the timed runs. Raises ConfigError if not even one can."""
    most = max(len(found) // len(classes) for classes, found in plan.questions.items())
    for count in range(max(1, most), 0, -1):
        fewer = plan.of_each_class(count)
        grading_s = fewer.num_answers * pace.grade_s
        if timed_s(fewer, pace) + grading_s <= _SPARE * left_s:
            return replace(fewer, max_minutes=(left_s - grading_s) / 60)
    least = timed_s(fewer, pace) + grading_s
    raise ConfigError(
        f"{len(plan.tasks)} cells with one question of each class take about {least / 60:.0f} min "
        f"here, and {left_s / 60:.0f} are left: raise --max-minutes, or leave parts out by --modes"
    )


def tell(line: str) -> None:
    """What goes on, on stderr: results alone are printed."""
    print(line, file=sys.stderr, flush=True)
