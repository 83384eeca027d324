"""The command line of bench_pice.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pice.modes import MODES, parse_modes
from picert.simulate.load import Load, parse_load
from picert.simulate.questions import parse_classes

OWN_SET = Path(__file__).parent.parent / "data" / "questions.jsonl"

T = TypeVar("T")


def parse(description: str | None) -> argparse.Namespace:
    """The flags. Ends the process for what cannot be asked."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_cells(parser)
    _add_system(parser)
    _add_judge(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    for name, least in (("clients", 1), ("max_tokens", 16), ("max_questions", 1)):
        if (given := getattr(args, name)) is not None and given < least:
            parser.error(f"--{name.replace('_', '-')} is {given}, must be at least {least}")
    args.is_preset = args.targets or args.ablations
    for name, default in (
        ("modes", lambda: parse_modes("baselines")),
        ("classes", lambda: parse_classes("all")),
        ("load", lambda: _loads("light,saturated")),
    ):
        if getattr(args, name) is None:
            setattr(args, name, default())
        elif args.is_preset:
            parser.error(f"--targets and --ablations have their own cells: leave --{name} out")
    args.pairwise = not (args.no_pairwise or args.is_preset)
    return args


def _add_cells(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--targets",
        action="store_true",
        help="the cells that the table of targets needs, and the table; as many questions as "
        "--max-minutes leaves time for",
    )
    add(
        "--ablations",
        action="store_true",
        help="the cells that show what each part gains where it matters, and the table; may stand "
        "beside --targets",
    )
    add(
        "--judge-answers",
        type=Path,
        help="measure nothing: grade the answers that an earlier run wrote by --answers",
    )
    add(
        "--modes",
        type=_in_words(parse_modes),
        help=f"baselines (the default, pice among them), ablations, or of {', '.join(MODES)}",
    )
    add("--classes", type=_in_words(parse_classes), help="all, suitable, unsuitable or names")
    add("--load", type=_in_words(_loads), help="light,half,saturated or numbers")
    add("--questions", type=Path, default=OWN_SET, help="JSON lines (default: our own 90)")
    add("--max-questions", type=int, help="in turns through the classes (default: all)")
    add(
        "--clients", type=int, default=32, help="in flight when saturated: twice the cloud's places"
    )
    add(
        "--max-minutes",
        type=float,
        default=60,
        help="of timed runs, later cells are skipped; of --targets and --ablations: of all",
    )
    add("--seed", type=int, default=0, help="of arrivals")


def _add_system(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--max-tokens", type=int, default=256, help="of an answer, in every mode")
    add("--deadline-s", type=float, default=600, help="of an answer")
    add("--cloud-model", default="qwen2.5-coder-1.5b-instruct")
    add(
        "--edge-models",
        default="qwen2.5-coder-0.5b-instruct,smollm2-135m-instruct",
        help="an edge for each; a+b is one edge that holds both",
    )
    add(
        "--cpus-cloud",
        type=_in_words(_cpus),
        default="0",
        help="cores of the cloud, such as 0 or 0-3,8",
    )
    add("--cpus-edge", type=_in_words(_cpus), default="1", help="cores of all edges together")
    add(
        "--profile",
        type=Path,
        help="speeds, of `picert profile`, for cloud and edges to plan with; a file that is not "
        "there is measured first (default: measured for --targets and --ablations, else priors)",
    )
    add("--link-rtt-ms", type=float, default=0, help="round trip added between cloud and edges")
    add("--cloud-flags", type=str.split, default="", help="further flags of picert-cloud")
    add("--edge-flags", type=str.split, default="", help="further flags of picert-edge")
    add("--answers", type=Path, help="append every answer to this file, as JSON lines")


def _add_judge(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--judge-model", help="default: the cloud's; 'none' judges mechanically only")
    add("--judge-url", help="an OpenAI-compatible endpoint, such as http://host/v1/")
    add(
        "--no-pairwise",
        action="store_true",
        help="no comparison with the direct answers; --targets and --ablations make none",
    )


def _in_words(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` for argparse, which drops the words of a ValueError."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _loads(text: str) -> tuple[Load, ...]:
    return tuple(parse_load(name) for name in text.split(","))


def _cpus(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ValueError(f"cores are {text!r}, wanted is a list such as 0-3,8")
        found.update(range(int(first), int(last or first) + 1))
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else found
    if not found or (missing := found - usable):
        wrong = min(missing) if found else text
        raise ValueError(f"core {wrong} is not one of {sorted(usable)}")
    return frozenset(found)
