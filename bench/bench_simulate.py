"""Does `picert simulate` predict what bench_pice.py measured?

    python bench/bench_simulate.py fit ANSWERS [ANSWERS …] --out workload.json
    python bench/bench_simulate.py validate ROWS --profile FILE [--workload workload.json]

`fit` makes a workload from the answers that bench_pice.py kept (`--answers`): how long each text
was. `validate` simulates each measured cell and prints predicted over measured for each figure, and
the worst of them. The 95th percentile of twenty answers is one or two of them, so it is printed but
does not count.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from pice.command_line import OWN_SET
from pice.modes import WITH

from picert import hub
from picert.config import PolicyConfig
from picert.errors import PicertError
from picert.log import configure
from picert.models.tokenizer import load_tokenizer
from picert.models.weights import load_checkpoint
from picert.pice.profile_file import read_profiles
from picert.simulate import machines, workload
from picert.simulate.cells import Cell, simulate
from picert.simulate.link import Network
from picert.simulate.load import Load
from picert.simulate.machines import Fleet, read_machines
from picert.simulate.questions import parse_classes, read_questions
from picert.simulate.system import Churn, Overheads, Setting

_JUDGED = ("requests_per_min", "latency_p50_ms", "first_text_p50_ms")
_SHOWN = ("latency_p95_ms", "cloud_tokens", "edge_tokens")
_LIMIT = 0.15


def fit(args: argparse.Namespace) -> None:
    """Write a workload."""
    answers = [json.loads(line) for path in args.files for line in path.open() if line.strip()]
    questions = read_questions(args.questions)
    found = workload.fit(questions, answers, counter(args.cloud_model), args.source)
    args.out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    print(f"{args.out}: {len(found.questions)} questions, not fit: {found.unfit}")


def counter(model: str) -> Callable[[str], int]:
    """Tokens of a text as `model` counts them."""
    tokenizer = load_tokenizer(load_checkpoint(hub.find(model)).tokenizer_source)
    return lambda text: len(tokenizer.encode(text))


def validate(args: argparse.Namespace) -> None:
    """Print a line for each cell, and the verdict."""
    configure("simulate", "error")
    worst = (0.0, "nothing was compared")
    for path in args.files:
        for row in map(json.loads, path.open()):
            if row.get("bench") != "pice" or not row.get("requests_per_min"):
                continue
            ratios = dict(compared(row, simulate(cell_of(row, args))))
            for name in (name for name in _JUDGED if name in ratios):
                off = abs(ratios[name] - 1)
                worst = max(worst, (off, f"{name} of {row['mode']}, {row['load']}"))
            show(row, ratios, as_json=args.json)
    within = "within" if worst[0] <= _LIMIT else "not within"
    print(f"worst: {worst[0]:.1%} off, {worst[1]}: {within} {_LIMIT:.0%}")


def compared(measured: dict[str, Any], predicted: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Predicted over measured, for each figure that both have."""
    for name in (*_JUDGED, *_SHOWN):
        if measured.get(name) and predicted.get(name):
            yield name, predicted[name] / measured[name]


def cell_of(row: dict[str, Any], args: argparse.Namespace) -> Cell:
    """The cell that a measured row is of. Raises PicertError."""
    believed = read_profiles(args.believed) if args.believed else None
    fleet = Fleet(read_profiles(args.profile), read_machines(machines.OWN_FILE), believed)
    edges = tuple(tuple(map(fleet.runs, edge.split("+"))) for edge in row["edge_models"])
    setting = Setting(
        cloud=fleet.runs(row["cloud_model"]),
        edges=edges,
        policy=policy_of(row["mode"]),
        network=Network(row["link_rtt_ms"] / 1000),
        churn=Churn(),
        overheads=Overheads(*(ms / 1000 for ms in args.overheads_ms)),
        edges_per_host=len(edges),  # all are pinned to the same cores
        max_tokens=row["max_tokens"],
        seed=row["seed"],
        tokens_per_event=args.tokens_per_event,
    )
    asked = workload.read_workload(args.workload)
    classes = parse_classes(row["classes"])
    load = Load(row["load"], per_min=row.get("offered_per_min"))
    return Cell(setting, load, asked, classes, row["num_questions"], row["clients"])


def policy_of(mode: str) -> PolicyConfig:
    """What the flags of a mode of bench_pice.py make of it."""
    if mode in WITH:
        flag, value = WITH[mode]
        return PolicyConfig(**{flag.removeprefix("--").replace("-", "_"): float(value)})
    mode, _, part = mode.partition("_no_")
    return PolicyConfig(mode=mode, **({part: False} if part else {}))


def show(row: dict[str, Any], ratios: dict[str, float], *, as_json: bool) -> None:
    """One line."""
    if as_json:
        rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
        print(json.dumps({"mode": row["mode"], "load": row["load"], **rounded}))
        return
    words = [f"{name} {ratio:.2f}" for name, ratio in ratios.items()]
    print(f"{row['mode']:>12} {row['load']:>9}  {', '.join(words)}")


def main() -> None:
    """One line for whatever cannot be done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=("fit", "validate"))
    add("files", type=Path, nargs="+", help="answers, or rows, of bench_pice.py")
    add("--out", type=Path, default=Path("workload.json"), help="of fit")
    add("--source", default="bench_pice.py --answers", help="of the lengths, as fit notes it")
    add("--questions", type=Path, default=OWN_SET)
    add("--cloud-model", default="qwen2.5-coder-1.5b-instruct", help="whose tokens fit counts")
    add("--profile", type=Path, help="of validate: how fast the models are")
    add("--believed", type=Path, help="what the measured service was given, if another file")
    add("--workload", type=Path, default=workload.OWN_FILE)
    add("--tokens-per-event", type=int, default=1)
    add(
        "--overheads-ms",
        type=float,
        nargs=4,
        default=(0.0, 0.0, 0.0, 0.0),
        metavar=("REQUEST", "STEP", "TOKEN", "MESSAGE"),
        help="what serving costs beside the engines; see docs/simulation.md",
    )
    add("--json", action="store_true")
    args = parser.parse_args()
    if args.what == "validate" and args.profile is None:
        parser.error("validate needs --profile")
    try:
        fit(args) if args.what == "fit" else validate(args)
    except PicertError as error:
        raise SystemExit(error.message) from None


if __name__ == "__main__":
    main()
