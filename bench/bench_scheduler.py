"""Cost of one scheduling round (schedule, then append for every row) with N sequences in decode.

In microseconds. The result is checked against the lengths it must have. `--json` prints one line
per case.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time

import numpy as np

import picert
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
    p20, p50, p80 = (round(1e6 * float(q), 2) for q in np.percentile(seconds[10:], [20, 50, 80]))
    return {
        "bench": "scheduler",
        "case": f"decode{num_seqs}",
        "p20_us": p20,
        "p50_us": p50,
        "p80_us": p80,
    }


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
    for num_seqs in args.seqs:
        row = measure(num_seqs, args.steps)
        if args.json:
            print(json.dumps({**row, **machine, "picert": picert.__version__, "commit": commit()}))
        else:
            print(
                f"{row['case']:>12}  p20/p50/p80 us "
                f"{row['p20_us']:>7} {row['p50_us']:>7} {row['p80_us']:>7}"
            )


if __name__ == "__main__":
    main()
