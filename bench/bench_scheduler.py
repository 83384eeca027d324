"""Costs of the scheduling core, in microseconds, each result checked first.

`decodeN` is one round of the engine's scheduler (schedule, then append for every row) with N
sequences in decode, `groupN` a grouping of N segments, `dispatchN` the choice of a job and its edge
among N edges with half of their places taken. `--json` prints one line per case.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import time
from collections.abc import Sequence

import numpy as np

import picert
from picert import _C
from picert.engine.scheduler import Scheduler, SchedulerLimits

PROMPT_LEN = 200


def commit() -> str:
    """The tree's commit, or "unknown"."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def running(num_seqs: int, steps: int) -> Scheduler:
    """A scheduler whose sequences are past their prompts, with room for `steps` more tokens."""
    max_len = PROMPT_LEN + 2 * steps
    scheduler = Scheduler(
        SchedulerLimits(
            num_blocks=num_seqs * (max_len // 16 + 2),
            block_size=16,
            max_num_seqs=num_seqs,
            max_num_batched_tokens=num_seqs + 512,
            max_model_len=4096,
        )
    )
    rng = np.random.default_rng(0)
    for seq_id in range(num_seqs):
        scheduler.add(seq_id, rng.integers(0, 50_000, PROMPT_LEN).astype(np.int32), max_len)
    while (batch := scheduler.schedule()) is not None:
        ids = [batch.seq_ids[row] for row in batch.sample_rows.tolist()]
        scheduler.append(ids, ids)
        if len(ids) == num_seqs:
            break
    return scheduler


def measure(num_seqs: int, steps: int) -> dict[str, object]:
    """p20, p50 and p80 of the rounds."""
    scheduler = running(num_seqs, steps)
    tokens = list(range(num_seqs))
    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        batch = scheduler.schedule()
        assert batch is not None
        scheduler.append(batch.seq_ids, tokens)
        seconds.append(time.perf_counter() - start)
        assert batch.num_tokens == num_seqs, f"step {step} has {batch.num_tokens} tokens"
    scheduler.self_check()
    return row(f"decode{num_seqs}", seconds[10:])


def measure_grouping(num_segments: int, places: int, rounds: int) -> dict[str, object]:
    """A long sketch, cut for the given number of places."""
    rng = random.Random(0)
    batcher = _C.SegmentBatcher()
    tokens = [rng.randint(8, 200) for _ in range(num_segments)]
    step_s = [0.02 + 0.001 * k for k in range(places)]
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        ends = batcher.group(tokens, step_s, 0.3)
        seconds.append(time.perf_counter() - start)
        assert ends[-1] == num_segments
    batcher.self_check()
    return row(f"group{num_segments}/{places}", seconds)


def merge_tree_s(tokens: Sequence[int], step_s: Sequence[float], read_s: float) -> float:
    """The obvious way to group: merge the shortest pair of neighbours again and again, keep the
    level that is predicted to end soonest."""
    groups = list(tokens)
    best = float("inf")
    while groups:
        if len(groups) <= len(step_s):
            best = min(best, len(groups) * read_s + max(groups) * step_s[len(groups) - 1])
        if len(groups) == 1:
            break
        at = min(range(len(groups) - 1), key=lambda n: groups[n] + groups[n + 1])
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    return best


def compare_grouping(num_cases: int) -> dict[str, object]:
    """How much longer than ours the groups of a merge tree are predicted to take; ratios."""
    rng = random.Random(1)
    batcher = _C.SegmentBatcher()
    ratios = []
    for _ in range(num_cases):
        tokens = [rng.randint(8, 200) for _ in range(rng.randint(2, 24))]
        growth = rng.choice((0.0, 0.02, 0.1, 0.3))
        step_s = [0.02 * (1 + growth * k) for k in range(rng.randint(1, 12))]
        read_s = rng.choice((0.0, 0.05, 0.3, 1.0, 3.0))
        batcher.group(tokens, step_s, read_s)
        ratios.append(merge_tree_s(tokens, step_s, read_s) / batcher.seconds)
    p50, p90, worst = (round(float(q), 3) for q in np.percentile(ratios, [50, 90, 100]))
    return {"bench": "grouping", "case": "merge tree", "p50": p50, "p90": p90, "worst": worst}


def measure_dispatch(num_edges: int, discipline: str, rounds: int) -> dict[str, object]:
    """Half of the places taken, ten thousand jobs waiting, edges of very different speed."""
    rng = random.Random(0)
    lists = _C.DispatchLists(discipline, 2.0)
    for _ in range(num_edges):
        factor = rng.uniform(1, 4)
        lists.add_edge(
            slots=8,
            kv_tokens=100_000,
            link_s=0.01,
            read_s=0.002 * factor,
            step_s=[(1, 0.02 * factor), (8, 0.06 * factor)],
        )
    size = {"prompt_tokens": 450, "tail_tokens": 30, "kv_tokens": 500}
    for job in range(10_000):
        lists.add(job, job // 5, tokens=rng.randint(8, 300), now=0.0, **size)
    running: list[int] = []
    while lists.num_free > 4 * num_edges and (pulled := lists.pull(0.0)):
        running += pulled[1]
    while lists.num_free < 4 * num_edges:
        lists.remove(running.pop())
    seconds = []
    for count in range(rounds):
        now = 0.001 * count
        start = time.perf_counter()
        pulled = lists.pull(now)
        took = time.perf_counter() - start
        assert pulled is not None
        edge, jobs = pulled
        seconds.append(took / len(jobs))
        assert 0 <= edge < num_edges
        for job in jobs:  # as it was before, but for the lengths
            lists.remove(job)
            lists.add(job, job // 5, tokens=rng.randint(8, 300), now=now, **size)
    lists.self_check()
    return row(f"dispatch{num_edges} {discipline}", seconds)


def row(case: str, seconds: Sequence[float]) -> dict[str, object]:
    """p20, p50 and p80 of one case."""
    p20, p50, p80 = (round(1e6 * float(q), 2) for q in np.percentile(seconds, [20, 50, 80]))
    return {"bench": "scheduler", "case": case, "p20_us": p20, "p50_us": p50, "p80_us": p80}


def main() -> None:
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seqs", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    machine = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    rows = [
        *(measure(num_seqs, args.steps) for num_seqs in args.seqs),
        *(measure_grouping(1000, places, 100) for places in (8, 64, 1000)),
        *(measure_dispatch(edges, "lists", args.steps) for edges in (1, 10, 100, 1000)),
        *(measure_dispatch(1000, name, args.steps) for name in ("fifo", "least_loaded")),
    ]
    quality = compare_grouping(2000)
    for result in [*rows, quality] if args.json else rows:
        if args.json:
            print(
                json.dumps({**result, **machine, "picert": picert.__version__, "commit": commit()})
            )
        else:
            print(
                f"{result['case']:>24}  p20/p50/p80 us "
                f"{result['p20_us']:>7} {result['p50_us']:>7} {result['p80_us']:>7}"
            )
    if not args.json:
        print(
            f"groups of a merge tree take {quality['p50']} (p50), {quality['p90']} (p90), "
            f"{quality['worst']} (worst) times as long as ours"
        )


if __name__ == "__main__":
    main()
