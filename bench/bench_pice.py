"""What progressive inference gains and costs: every mode under every load, on one machine.

    python bench/bench_pice.py --modes direct,pice --classes suitable --load light,saturated --json
    python bench/bench_pice.py --modes direct,pice --max-questions 8 --clients 4

One cloud on its cores, all edges on theirs (so that they stand for different machines), real
processes, real HTTP clients, the same questions in the same order, greedy decoding. Each cell (a
mode under a load) gets a fresh system. Loads are explained in bench/pice/load.py, modes in
bench/pice/modes.py. After the timed runs a judge model grades the answers (bench/pice/judge.py);
before that it is tested on pairs whose result is known. What could not be measured is in a line
with "skipped" and the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import environment
from pice.command_line import parse
from pice.judge import Judge, SelfTest
from pice.load import Load, LoadGenerator, LoadResult
from pice.questions import Question, pick, read_questions
from pice.rows import Cell, Row, cell_head, judge_cell, quality_row, speed_row
from pice.scorers import HttpScorer, LocalScorer
from pice.system import Machines, run_until_told, running

from picert import hub
from picert.engine.llm import LLM
from picert.errors import PicertError

_EXPECTED_SHARE = 0.7  # of max_tokens that an answer uses, for the estimate
_EXPECTED_SPEED_UP = 4.0  # of a saturated cloud over one answer alone, for the estimate


@dataclass(frozen=True, slots=True)
class Plan:
    """What the run does."""

    modes: tuple[str, ...]
    loads: tuple[Load, ...]
    classes: tuple[str, ...]
    questions: tuple[Question, ...]
    machines: Machines
    num_clients: int
    seed: int
    max_minutes: float  # of timed runs

    @property
    def cells(self) -> list[tuple[str, Load]]:
        """Modes and loads in the order of the run: Poisson loads need direct's saturated rate."""
        pairs = [(mode, load) for load in self.loads for mode in self.modes]
        if not any(load.is_poisson for load in self.loads):
            return pairs
        first = ("direct", Load("saturated"))
        return [first, *(pair for pair in pairs if pair != first)]


class Bench:
    """Runs cells one by one and remembers direct's saturated rate."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._direct_per_min: float | None = None
        self._deadline = time.monotonic() + 60 * plan.max_minutes

    def cells(self) -> Iterator[Cell | Row]:
        """A cell, or the line of one that could not be measured, as they are done."""
        for mode, load in self.plan.cells:
            yield self._cell(mode, load)

    def _cell(self, mode: str, load: Load) -> Cell | Row:
        head = cell_head(mode, load.name, self.plan.classes)
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            return {**head, "skipped": "the time of --max-minutes is over"}
        if load.is_poisson and self._direct_per_min is None:
            return {**head, "skipped": "direct's saturated rate is not known"}
        try:
            measuring = asyncio.wait_for(self._measure(mode, load), left_s)
            result, link_bytes = run_until_told(measuring)
        except asyncio.TimeoutError:
            return {**head, "skipped": "the time of --max-minutes ended it"}
        except PicertError as error:
            return {**head, "skipped": " ".join(error.message.split())}
        if (mode, load.name) == ("direct", "saturated"):
            self._direct_per_min = result.requests_per_min
        return Cell(mode, load.name, self.plan.classes, result, link_bytes)

    async def _measure(self, mode: str, load: Load) -> tuple[LoadResult, int]:
        plan = self.plan
        with tempfile.TemporaryDirectory(prefix="picert-bench-") as folder:
            async with running(plan.machines, mode, Path(folder)) as system:
                s_per_token = await system.warm_up()
                _tell(f"{mode} {load.name}: {s_per_token * 1000:.0f} ms per direct token alone")

                generator = LoadGenerator(
                    system.ask, time.monotonic, asyncio.sleep, plan.num_clients, plan.seed
                )
                before = system.num_link_bytes
                result = await generator.run(load, plan.questions, self._direct_per_min)
                return result, system.num_link_bytes - before


def estimate(plan: Plan) -> float:
    """Seconds that the timed runs would take if every mode were as slow as direct.

    Speed is measured on a system that is started for it. Raises PicertError.
    """

    async def speed() -> float:
        with tempfile.TemporaryDirectory(prefix="picert-bench-") as folder:
            async with running(plan.machines, "direct", Path(folder)) as system:
                return await system.warm_up()

    began = time.monotonic()
    alone_s = run_until_told(speed()) * plan.machines.max_tokens * _EXPECTED_SHARE
    start_s = time.monotonic() - began
    num_questions = len(plan.questions)
    in_batches = max(num_questions, 2 * plan.num_clients) + plan.num_clients
    total = 0.0
    for _, load in plan.cells:
        work = num_questions if load.name == "light" else in_batches / _EXPECTED_SPEED_UP
        total += work * alone_s + start_s
    return total


def plan_of(args: argparse.Namespace) -> Plan:
    """Raises PicertError for a model that is not here, ValueError for questions that are wrong."""
    questions = pick(read_questions(args.questions), args.classes, args.max_questions)
    if not questions:
        raise ValueError(f"{args.questions} has no question of {', '.join(args.classes)}")
    edges = tuple(tuple(edge.split("+")) for edge in args.edge_models.split(",") if edge)
    for model in (args.cloud_model, *(model for edge in edges for model in edge)):
        hub.find(model)
    return Plan(
        modes=args.modes,
        loads=args.load,
        classes=args.classes,
        questions=tuple(questions),
        machines=Machines(
            cloud_model=args.cloud_model,
            edges=edges,
            cpus_cloud=args.cpus_cloud,
            cpus_edge=args.cpus_edge,
            max_tokens=args.max_tokens,
            deadline_s=args.deadline_s,
            link_delay_s=args.link_rtt_ms / 2000,
            cloud_flags=tuple(args.cloud_flags),
            edge_flags=tuple(args.edge_flags),
        ),
        num_clients=args.clients,
        seed=args.seed,
        max_minutes=args.max_minutes,
    )


@contextmanager
def judge_of(args: argparse.Namespace) -> Iterator[Judge | None]:
    """The judge that was asked for. Raises PicertError if its model is not here."""
    if args.judge_model == "none":
        yield None
    elif args.judge_url:
        scorer = HttpScorer(args.judge_url, args.judge_model or "")
        try:
            yield Judge(scorer)
        finally:
            scorer.close()
    else:
        with LLM(args.judge_model or args.cloud_model) as llm:
            yield Judge(LocalScorer(llm))


def tested_judge(args: argparse.Namespace, plan: Plan) -> SelfTest | None:
    """The judge's self-test, before anything is timed: what is wrong with it is known early."""
    with judge_of(args) as judge:
        if judge is None:
            return None
        test = judge.self_test(plan.questions)
        _tell(f"judge's self-test: {'; '.join(test.reasons) or 'passed'} ({asdict(test)})")
        return test


def judged_rows(
    args: argparse.Namespace, plan: Plan, cells: list[Cell], test: SelfTest | None
) -> Iterator[Row]:
    """A line for each cell. A judge that fails now costs the scores, not the figures."""
    direct: dict[str, str] = {}
    for cell in cells:
        if cell.mode == "direct":
            direct = {a.question.id: a.text for a in cell.result.answers if a.done} | direct
    same = {
        "judge": args.judge_model or args.cloud_model,
        "judge_self_test": None if test is None else {**asdict(test), "fails": test.reasons},
        "clients": plan.num_clients,
        "seed": plan.seed,
        **plan.machines.row(),
        **environment(),
    }
    with judge_of(args) as judge:
        for cell in cells:
            row = {**cell_head(cell.mode, cell.load, cell.classes), **speed_row(cell)}
            try:
                judged = judge_cell(cell, judge, direct, pairwise=not args.no_pairwise)
            except (PicertError, ValueError) as error:
                row["missing"]["checklist_score"] = str(error)
                judged = judge_cell(cell, None, direct, pairwise=False)
            if judge is None:
                row["missing"]["checklist_score"] = "there is no judge"
            yield {**row, **quality_row(judged), **same}


def show(row: Row, *, as_json: bool) -> None:
    """Print one result."""
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    name = f"{row['classes']:>12} {row['load']:>9} {row['mode']:>14}"
    if "skipped" in row:
        print(f"{name}  skipped: {row['skipped']}", flush=True)
        return
    score = row["checklist_score"]
    words = [
        f"{row['requests_per_min'] or 0:7.2f} req/min",
        f"p50 {_seconds(row['latency_p50_ms'])} p95 {_seconds(row['latency_p95_ms'])}",
        f"first text {_seconds(row['first_text_p50_ms'])}",
        f"tokens {row['cloud_tokens']}+{row['edge_tokens']}",
        f"{row['repairs']} repairs, {row['failures']} failures",
        f"score {score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}]" if score else "",
    ]
    print(f"{name}  {', '.join(word for word in words if word)}", flush=True)


def _seconds(milliseconds: float | None) -> str:
    return "none" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


def write_answers(path: Path, cell: Cell) -> None:
    """Every answer of a cell, so that figures can be looked into."""
    with path.open("a", encoding="utf-8") as file:
        for answer in cell.result.answers:
            line: dict[str, Any] = {
                "mode": cell.mode,
                "load": cell.load,
                "id": answer.question.id,
                "latency_s": round(answer.latency_s, 3),
                "first_text_s": answer.first_text_s and round(answer.first_text_s, 3),
                "route": answer.done and answer.done.route,
                "reasons": answer.done and list(answer.done.reasons),
                "error": answer.error,
                "text": answer.text,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> None:
    """Estimate, measure, judge, print."""
    plan = plan_of(args)
    test = tested_judge(args, plan)
    expected = estimate(plan)
    _tell(
        f"estimate: {len(plan.cells)} cells of {len(plan.questions)} questions, "
        f"about {expected / 60:.1f} min if all were as slow as direct, then the judge; "
        f"no cell begins after {args.max_minutes:g} min"
    )
    cells: list[Cell] = []
    try:
        for cell in Bench(plan).cells():
            if isinstance(cell, Cell):
                cells.append(cell)
                rate = cell.result.requests_per_min or 0
                _tell(f"{cell.mode} {cell.load}: {rate:.2f} requests a minute")
                if args.answers:
                    write_answers(args.answers, cell)
            else:
                show({**cell, **plan.machines.row(), **environment()}, as_json=args.json)
    except (KeyboardInterrupt, SystemExit):
        args.judge_model = "none"  # whoever ends the run gets what was measured, not a long wait
        raise
    finally:
        for row in judged_rows(args, plan, cells, test):
            show(row, as_json=args.json)


def main() -> None:
    """One line for whatever cannot be done."""
    args = parse(__doc__)
    try:
        run(args)
    except PicertError as error:
        raise SystemExit(error.message) from None
    except ValueError as error:
        raise SystemExit(f"picert: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
