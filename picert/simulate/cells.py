"""A cell: one setting under one load, from its parts to a row of figures."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from picert.config import PolicyConfig
from picert.errors import ConfigError
from picert.simulate.clock import run
from picert.simulate.figures import Figures, Row
from picert.simulate.load import Load, LoadGenerator, LoadResult
from picert.simulate.questions import Question, name_of, pick
from picert.simulate.system import Setting, running
from picert.simulate.workload import Workload, Writing

_PARTS = ("eager_dispatch", "grouping", "lists", "switching", "ensemble", "repair", "price")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is simulated."""

    setting: Setting
    load: Load
    workload: Workload
    classes: tuple[str, ...]
    num_requests: int
    num_clients: int  # in flight when saturated


class _Arrival(msgspec.Struct):
    """A line of a trace; what else is in it is of no interest."""

    at_s: float


def simulate(cell: Cell) -> Row:
    """The figures of a cell, named as bench_pice.py names those that it measures."""
    began = time.perf_counter()
    sums = Figures()
    result = run(lambda: _run(cell, sums))
    setting = cell.setting
    return {
        **{"bench": "simulate", "mode": mode_name(setting.policy), "load": cell.load.name},
        "classes": name_of(cell.classes),
        "edges": len(setting.edges),
        "edges_per_host": setting.edges_per_host,
        "link_rtt_ms": round(1000 * setting.network.rtt_s, 3),
        "loss": setting.network.loss,
        "churn_per_hour": setting.churn.per_hour,
        **sums.row(result),
        "clients": cell.num_clients,
        "seed": setting.seed,
        "max_tokens": setting.max_tokens,
        "cloud_model": setting.cloud.model,
        "edge_models": sorted({"+".join(r.model for r in models) for models in setting.edges}),
        "tokens_per_event": setting.tokens_per_event,
        "wall_s": round(time.perf_counter() - began, 2),
    }


def mode_name(policy: PolicyConfig) -> str:
    """The mode, which parts are switched off, and what is switched on."""
    without = "".join(f"_no_{part}" for part in _PARTS if not getattr(policy, part))
    return policy.mode + without + ("_with_cloud_check" if policy.w_cloud_check else "")


def questions_of(cell: Cell) -> list[Question]:
    """As many as there are requests, round and round. Raises ConfigError if there is none."""
    known = [
        msgspec.convert({"id": q.id, "class": q.question_class, "question": q.question}, Question)
        for q in cell.workload.questions
    ]
    chosen = pick(known, cell.classes, None)
    if not chosen:
        raise ConfigError(f"the workload has no question of {', '.join(cell.classes)}")
    return list(itertools.islice(itertools.cycle(chosen), cell.num_requests))


def read_trace(path: Path) -> tuple[float, ...]:
    """Seconds of arrivals, of a file of JSON lines with `at_s`. Raises ConfigError."""
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        times = tuple(msgspec.json.decode(line, type=_Arrival).at_s for line in lines)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"trace {path}: {error}") from None
    if not times or list(times) != sorted(times) or times[0] < 0:
        raise ConfigError(f"trace {path}: at_s must be seconds from 0 on, in order")
    return times


async def _run(cell: Cell, sums: Figures) -> LoadResult:
    setting = cell.setting
    questions: Sequence[Question] = questions_of(cell)
    clock = asyncio.get_running_loop().time
    async with running(setting, Writing(cell.workload, setting.seed)) as system:
        generator = LoadGenerator(system.ask, clock, asyncio.sleep, cell.num_clients, setting.seed)
        result = await generator.run(cell.load, questions, None, lambda _, a: sums.add(a))
        system.self_check()
        return result
