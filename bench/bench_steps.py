"""Where the time of picert's steps on the CPU goes: a share for each phase of the decoder.

    python bench/bench_steps.py --model NAME --threads 2 --cases tg1,tg16,pp512

Cases are explained in bench/cases.py. `wait` is time at barriers for the other threads, `python`
all that is outside the decoder: scheduling, sampling, text. The clocks in a step cost below 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cases import Case, parse_case
from engines.picert_engine import PicertEngine
from engines.protocol import Settings
from machine import environment

from picert import hub
from picert.errors import PicertError

WARM_STEPS, STEPS, PREFILLS = 3, 24, 4


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name that was pulled, or a GGUF file")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", default="tg1,tg16,pp512")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    try:
        args.cases = [parse_case(name) for name in args.cases.split(",")]
    except ValueError as error:
        parser.error(str(error))
    return args


def profile(engine: PicertEngine, case: Case, rng: np.random.Generator) -> dict[str, Any]:
    """The median step of a case in milliseconds, and each phase's share of all steps."""
    vocab_size = engine.describe()["vocab_size"]
    if case.kind == "decode":
        engine.open(case.prompts(rng, vocab_size))
        for _ in range(WARM_STEPS):
            engine.step()
        seconds, phases = _timed_decode(engine)
        engine.clear()
    else:
        _prefill(engine, case.prompts(rng, vocab_size))
        prompts = [case.prompts(rng, vocab_size) for _ in range(PREFILLS)]
        seconds = []
        phases = engine.profile(lambda: seconds.extend(_prefill(engine, p) for p in prompts))
    total = sum(seconds)
    shares = {phase: spent / total for phase, spent in phases.items()}
    shares["python"] = 1 - sum(shares.values())
    return {
        "step_ms": round(1e3 * median(seconds), 3),
        "shares": {phase: round(share, 4) for phase, share in shares.items()},
    }


def _timed_decode(engine: PicertEngine) -> tuple[list[float], dict[str, float]]:
    seconds: list[float] = []

    def steps() -> None:
        for _ in range(STEPS):
            start = time.perf_counter()
            engine.step()
            seconds.append(time.perf_counter() - start)

    return seconds, engine.profile(steps)


def _prefill(engine: PicertEngine, prompts: list[list[int]]) -> float:
    start = time.perf_counter()
    engine.open(prompts)
    seconds = time.perf_counter() - start
    engine.clear()
    return seconds


def show(row: dict[str, Any], *, as_json: bool) -> None:
    """Print one result; for people the largest share first."""
    if as_json:
        print(json.dumps(row), flush=True)
        return
    order = sorted(row["shares"].items(), key=lambda item: -item[1])
    words = ", ".join(f"{phase} {share:.1%}" for phase, share in order)
    print(f"{row['case']:>10} {row['step_ms']:>9} ms: {words}", flush=True)


def main() -> None:
    """One line for each case, or for what cannot be done."""
    args = parse()
    try:
        model = str(Path(hub.find(args.model)).resolve())
        engine = PicertEngine(
            Settings(
                model=model,
                threads=args.threads,
                max_num_seqs=max(case.num_seqs for case in args.cases),
                max_len=max(512, *(case.max_len for case in args.cases)),
            )
        )
        for case in args.cases:
            row = profile(engine, case, np.random.default_rng(0))
            head = {"bench": "steps", "model": args.model, "case": case.name}
            show({**head, "threads": args.threads, **row, **environment()}, as_json=args.json)
    except PicertError as error:
        raise SystemExit(error.message) from None


if __name__ == "__main__":
    main()
