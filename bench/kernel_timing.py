"""Rows of kernels timed on a card: each result is checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from card import Card
from kernel_problems import PROBLEMS, works_of
from machine import environment
from problem import Draw, NotTimed, Problem

from picert.kernels.launch import Kernel, ModelShape, StepShape, Work
from picert.kernels.roofline import seconds_of

Launch = tuple[Kernel, ModelShape, StepShape, Work]
Time = Callable[[list[Callable[[], object]]], list[float]]  # runs -> microseconds of one


@dataclass(frozen=True, slots=True)
class Rig:
    """What times launches: a card, where their inputs come from, and a clock."""

    card: Card
    draw: Draw
    time: Time


def timed_rows(launches: Iterable[Launch], rig: Rig) -> Iterator[dict[str, Any]]:
    """One for each launch; a wrong result or too large a launch has a reason in place of times."""
    same = versions()
    for kernel, model, step, work in launches:
        if kernel.name not in PROBLEMS:
            continue
        head = {
            **{"bench": "kernels", "kernel": kernel.name, "config": work.config.name},
            **{"device": rig.card.name, "dtype": str(rig.draw.dtype).removeprefix("torch.")},
            **{"model": model.name, "batch": step.batch},
            **{"query_len": step.query_len, "context": step.context},
        }
        try:
            times = _times(kernel.name, model, step, rig)
        except torch.OutOfMemoryError:
            times = {"skipped": "its inputs do not fit on the card"}
        except NotTimed as reason:
            times = {"skipped": str(reason)}
        yield {**head, **times, **same}


def versions() -> dict[str, str]:
    """What a reader needs to place a figure."""
    about = {"torch": torch.__version__, "triton": triton.__version__}
    return {**environment(), **about, "cuda": str(torch.version.cuda)}


def _times(name: str, model: ModelShape, step: StepShape, rig: Rig) -> dict[str, Any]:
    card = rig.card
    works = works_of(name, model, step, card.num_sms)
    num_bytes = sum(work.bytes for work in works)
    problems = [PROBLEMS[name](model, step, rig.draw) for _ in range(card.num_sets(num_bytes))]
    if (error := problems[0].error()) is not None:
        return {"skipped": f"wrong result: {error}"}
    micros = rig.time([problem.run for problem in problems])
    p20, p50, p80 = (float(q) for q in np.percentile(micros, [20, 50, 80]))
    flops = sum(work.tensor_flops + work.flops for work in works)
    row: dict[str, Any] = {
        **{"sets": len(problems), "bytes": num_bytes, "flops": flops},
        **{"p20_us": round(p20, 3), "p50_us": round(p50, 3), "p80_us": round(p80, 3)},
        **{"gb_per_s": round(num_bytes / p50 / 1e3, 1), "tflop_per_s": round(flops / p50 / 1e6, 2)},
    }
    if card.sheet is not None:
        limits = [seconds_of(work, card.sheet) for work in works]
        limit_us = 1e6 * sum(max(seconds.values()) for seconds in limits)
        bound_by = max(limits[0], key=lambda unit: limits[0][unit])
        row |= {"limit_us": round(limit_us, 3), "bound_by": bound_by}
        row["share_of_limit"] = round(limit_us / p50, 3)
    row["peers"] = {peer: _peer_us(problems, peer, rig.time) for peer in problems[0].peers}
    return row


def _peer_us(problems: list[Problem], peer: str, time: Time) -> float | str:
    """Median microseconds, or why there are none: a peer's failure is not ours."""
    try:
        micros = time([problem.peers[peer]() for problem in problems])
    except Exception as error:
        return f"skipped: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return round(float(np.median(micros)), 3)
