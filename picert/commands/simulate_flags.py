"""Flags of `picert simulate`, apart from it: `--help` must not wait for what it loads."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from picert.commands.flags import POLICY_FLAGS, add_flags


def add_simulate_flags(parser: argparse.ArgumentParser, cloud_model: str, edge_models: str) -> None:
    """Give `parser` these flags; the models are what holds where none is named."""
    add = parser.add_argument
    add("--profile", metavar="FILE", help="of `picert profile`: how fast models are")
    add("--believed", metavar="FILE", help="such a file that the service is given instead")
    add("--machines", metavar="FILE", help="of published numbers, for names MODEL@MACHINE")
    add("--cloud-model", default=cloud_model, help="(default: %(default)s)")
    add(
        "--edge-models",
        default=edge_models,
        help="edges take turns through them; a+b is one edge that holds both (default: "
        "%(default)s)",
    )
    add("--edges", default="2", help="number of edges, or several: 1,10,100 (default: %(default)s)")
    add("--mode", default="pice", help="of the cloud, or several (default: %(default)s)")
    _add_int(add, "--edges-per-host", "that share a machine (default: %(default)s)", 1)
    _add_load_flags(add)
    add("--link-rtt-ms", default="0", help="round trip, or several (default: %(default)s)")
    add("--loss", default="0", help="share of messages sent again (default: %(default)s)")
    add("--churn", default="0", help="crashes of each edge in an hour (default: %(default)s)")
    add("--away-s", type=float, default=30.0, help="mean of a crash (default: %(default)s)")
    for name, what in (
        ("request", "until a question is in the service"),
        ("step", "of the cloud: a step"),
        ("token", "of any engine: a token told"),
        ("message", "of the cloud: a token that an edge tells"),
    ):
        add(f"--{name}-overhead-ms", type=float, default=0.0, help=what)
    add("--workload", metavar="FILE", help="questions with lengths (default: the package's)")
    add("--classes", default="all", help="of questions: all, suitable, unsuitable or names")
    _add_int(add, "--max-tokens", "of an answer (default: %(default)s)", 256)
    add("--deadline-s", type=float, default=600.0, help="of an answer (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    _add_int(add, "--tokens-per-event", "1 is exact, more is faster (default: %(default)s)", 8)
    add("--json", action="store_true", help="one JSON object a line, for `picert report`")
    add_flags(parser, POLICY_FLAGS)
    parser.set_defaults(config=None)


def _add_load_flags(add: Callable[..., Any]) -> None:
    """When questions come."""
    _add_int(add, "--requests", "(default: %(default)s)", 100)
    _add_int(add, "--clients", "each with a question in flight (default: %(default)s)", 16)
    add("--rate", help="questions a minute, Poisson, or several; instead of clients")
    add(
        "--rate-swing",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="by which --rate goes up and down, 0 to 1 (default: %(default)s)",
    )
    add(
        "--rate-period-s",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="from one peak of it to the next (default: %(default)s)",
    )
    add("--trace", metavar="FILE", help="JSON lines with at_s, when questions come; instead")


def _add_int(add: Callable[..., Any], name: str, text: str, default: int) -> None:
    add(name, type=_positive, default=default, metavar="INT", help=text)


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
