"""Tokens per second of picert and of others on the same file, taking turns in one run.

    python bench/bench_engine.py --model NAME --threads 2 --cases tg1,tg16,pp512 --json
    python bench/bench_engine.py --model NAME --cases tg1 --peers llama.cpp,openvino
    python bench/bench_engine.py --model NAME --device cuda --peers transformers

Cases are explained in bench/cases.py. Each engine is a process of its own, loaded once, on the same
processors. A case goes in rounds, forth and back through the engines, each doing some steps and
then the machine's limits being measured: the machine drifts within seconds, so ratios are taken
round by round. Before it is timed, an engine's greedy text is checked. Who is missing or unable is
told in a line with "skipped" and the reason.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from card import NoCard, find_card
from cases import parse_case
from engines.process import EngineFailed
from machine import environment
from rounds import measure
from team import Plan, Team

from picert import hub
from picert.errors import PicertError

PEERS = ("llama.cpp", "openvino", "transformers")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name that was pulled, or a GGUF file")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cases", default="tg1,tg4,tg16,pp512")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    parser.add_argument(
        "--baseline-threads", type=int, help="measure picert on so many threads too, in turns"
    )
    parser.add_argument("--rounds", type=int, default=8, help="of each case, at most")
    parser.add_argument("--case-seconds", type=float, default=30, help="then no further round")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    try:
        args.cases = [parse_case(name) for name in args.cases.split(",")]
    except ValueError as error:
        parser.error(str(error))
    args.peers = [name for name in args.peers.split(",") if name]
    if unknown := {*args.peers} - {*PEERS}:
        parser.error(f"peer {min(unknown)!r} is unknown: choose of {', '.join(PEERS)}")
    if args.device == "cuda" and (of_cpu := {*args.peers} - {"transformers"}):
        parser.error(f"peer {min(of_cpu)!r} runs on the CPU here: leave it out with --device cuda")
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    """What all engines of the run share. Raises PicertError if the model is not here."""
    return Plan(
        model=str(Path(hub.find(args.model)).resolve()),
        threads=args.threads,
        peers=tuple(args.peers),
        baseline_threads=args.baseline_threads,
        rounds=args.rounds,
        case_seconds=args.case_seconds,
        cases=tuple(args.cases),
        device=args.device,
    )


def show(row: dict[str, Any], *, as_json: bool) -> None:
    """Print one result."""
    if as_json:
        print(json.dumps(row), flush=True)
        return
    name = f"{row['case']:>12} {row['engine']:>12} x{row['threads']}"
    if "skipped" in row:
        print(f"{name}  skipped: {row['skipped']}", flush=True)
        return
    words = [f"{row['tok_per_s']:>8} tok/s (p20 {row['p20']}, p80 {row['p80']})"]
    if "share_of_limit" in row:
        words.append(f"{row['share_of_limit']:.0%} of {row['limit']}")
    if "ratio_to_picert" in row:
        words.append(f"picert has {1 / row['ratio_to_picert']:.2f}x")
    if "ratio_to_baseline" in row:
        words.append(f"{row['ratio_to_baseline']:.2f}x of {row['baseline']}")
    print(f"{name}  {', '.join(words)}", flush=True)


def run(plan: Plan, model: str, *, as_json: bool) -> None:
    """Load, check, measure, print. Raises NoCard."""
    same = environment()
    if plan.device == "cuda":
        same["card"] = find_card().name
    with Team(plan) as team:
        for case in plan.cases:
            for row in measure(team, case):
                head = {"bench": "engine", "engine": row.pop("engine"), "model": model}
                show({**head, **row, **same}, as_json=as_json)


def main() -> None:
    """One line for whatever cannot be done."""
    args = parse()
    try:
        run(plan_of(args), args.model, as_json=args.json)
    except PicertError as error:
        raise SystemExit(error.message) from None
    except (EngineFailed, NoCard) as error:
        raise SystemExit(f"picert: {error}") from None


if __name__ == "__main__":
    main()
