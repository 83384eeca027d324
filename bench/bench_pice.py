"""What progressive inference gains and costs: every mode under every load, on one machine.

    python bench/bench_pice.py --targets --max-minutes 45
    python bench/bench_pice.py --modes direct,pice --classes suitable --load light,saturated --json
    python bench/bench_pice.py --modes direct,pice --max-questions 8 --answers answers.jsonl \\
        --judge-model none
    python bench/bench_pice.py --judge-answers answers.jsonl

One cloud on its cores, all edges on theirs (so that they stand for different machines), real
processes, real HTTP clients, the same questions in the same order, greedy decoding. Each cell (a
mode under a load) gets a fresh system. Loads are explained in picert/simulate/load.py, modes in
bench/pice/modes.py, the cells of --targets and --ablations in bench/pice/plan.py. After the timed
runs a judge model grades the answers (bench/pice/judge.py); before that it is tested on texts whose
result is known. What could not be measured is in a line with "skipped" and the reason.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from machine import environment
from pice.answers import append_answers, read_answers, written
from pice.cells import Bench, fitted, measured_pace, tell, timed_s
from pice.command_line import parse
from pice.plan import Plan, edges_of, plan_of
from pice.profiles import measure_profiles
from pice.quality import SelfTest, quality_rows, tested_judge
from pice.rows import Cell, speed_row
from pice.show import Printed

from picert.errors import PicertError
from picert.simulate.questions import name_of, read_questions


def run(args: argparse.Namespace) -> None:
    """Measure, judge, print."""
    began = time.monotonic()
    plan = plan_of(args)
    tested = tested_judge(args, plan.asked)
    printed = Printed(args.json)
    with _profiled(args, plan) as plan:
        pace = replace(measured_pace(plan), grade_s=tested.grade_s)
        if args.is_preset and args.max_questions is None:
            plan = fitted(plan, pace, 60 * args.max_minutes - (time.monotonic() - began))
        tell(
            f"estimate: {_told(plan)}, about {timed_s(plan, pace) / 60:.1f} min if all were as "
            f"slow as direct, then the judge; no cell begins after {plan.max_minutes:.3g} min"
        )
        _measure(args, plan, tested, printed)
    if args.targets:
        printed.targets()
    if args.ablations:
        printed.ablations()


def judge_file(args: argparse.Namespace) -> None:
    """Grade the answers of an earlier run."""
    questions = read_questions(args.questions)
    cells = read_answers(args.judge_answers, questions, edges_of(args.edge_models))
    tested = tested_judge(args, questions)
    printed = Printed(args.json)
    for task, row in quality_rows(args, cells, tested):
        printed.add({**task.head(), "of": "quality", **row, **environment()})


@contextmanager
def _profiled(args: argparse.Namespace, plan: Plan) -> Iterator[Plan]:
    """The plan with the speeds that cloud and edges plan with, if there shall be any."""
    with tempfile.TemporaryDirectory(prefix="picert-bench-") as folder:
        file: Path | None = args.profile
        if file is None and args.is_preset:
            file = Path(folder) / "profile.json"
        if file is not None and not file.exists():
            measure_profiles(plan.machines, file)
        yield replace(plan, machines=replace(plan.machines, profile=file))


def _measure(args: argparse.Namespace, plan: Plan, tested: SelfTest, printed: Printed) -> None:
    """Every cell, then its judgement. Whoever ends the run gets what was measured, unjudged."""
    same = {
        "clients": plan.num_clients,
        "seed": plan.seed,
        **plan.machines.row(),
        **environment(),
    }
    cells: list[Cell] = []
    try:
        for cell in Bench(plan).cells():
            if isinstance(cell, Cell):
                cells.append(cell)
                rate = cell.result.requests_per_min or 0
                tell(f"{cell.task.mode} {cell.task.load.name}: {rate:.2f} requests a minute")
                if args.answers:
                    append_answers(args.answers, cell.task, cell.result.answers)
            else:
                printed.add({**cell, **same})
    except (KeyboardInterrupt, SystemExit):
        args.judge_model, args.judge_url = "none", None
        raise
    finally:
        answers = {cell.task: written(cell.result.answers) for cell in cells}
        judged = quality_rows(args, answers, tested)
        for cell, (task, quality) in zip(cells, judged, strict=True):
            speed = speed_row(cell)
            missing = {**speed["missing"], **quality["missing"]}
            available = len(plan.asked_of(task.classes))
            row = {**task.head(), "num_available": available, **speed, **quality}
            printed.add({**row, "missing": missing, **same})


def _told(plan: Plan) -> str:
    """The run in words: what is scaled down must not be overlooked."""
    counts = ", ".join(
        f"{len(found)} of {len(plan.asked_of(classes))} ({name_of(classes)})"
        for classes, found in plan.questions.items()
    )
    return f"{len(plan.tasks)} cells, questions {counts}"


def main() -> None:
    """One line for whatever cannot be done."""
    args = parse(__doc__)
    try:
        judge_file(args) if args.judge_answers else run(args)
    except PicertError as error:
        raise SystemExit(error.message) from None
    except ValueError as error:
        raise SystemExit(f"picert: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
