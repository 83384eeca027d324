"""`picert simulate`: the real service over simulated engines and links, under a virtual clock.

Every flag that takes a list makes a line for each of its values; several lists, for each
combination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, get_args

from picert.commands.flags import policy_config
from picert.config import Mode
from picert.errors import ConfigError
from picert.log import configure
from picert.pice.profile_file import ProfileFile, read_profiles
from picert.simulate import machines, workload
from picert.simulate.cells import Cell, read_trace, simulate
from picert.simulate.engine import EngineLimits
from picert.simulate.figures import Row
from picert.simulate.link import Network
from picert.simulate.load import Load
from picert.simulate.machines import Fleet, read_machines
from picert.simulate.questions import parse_classes
from picert.simulate.system import Churn, Overheads, Setting
from picert.simulate.workload import read_workload

T = TypeVar("T")


def run(flags: argparse.Namespace) -> int:
    """Simulate cell by cell and print each when it is done. Raises PicertError."""
    configure("simulate", "error")
    for cell in cells(flags):
        row = simulate(cell)
        sys.stdout.write((json.dumps(row, ensure_ascii=False) if flags.json else told(row)) + "\n")
        sys.stdout.flush()
    return 0


def cells(flags: argparse.Namespace) -> Iterator[Cell]:
    """Every combination. Raises PicertError."""
    profiles = read_profiles(Path(flags.profile)) if flags.profile else ProfileFile()
    believed = read_profiles(Path(flags.believed)) if flags.believed else None
    fleet = Fleet(profiles, read_machines(Path(flags.machines or machines.OWN_FILE)), believed)
    queued = max(EngineLimits().max_num_queued_reqs, flags.requests)
    cloud = fleet.runs(flags.cloud_model, queued)
    kinds = [
        tuple(fleet.runs(name) for name in edge.split("+"))
        for edge in flags.edge_models.split(",")
        if edge
    ]
    asked = read_workload(Path(flags.workload or workload.OWN_FILE))
    try:
        classes = parse_classes(flags.classes)
    except ValueError as error:
        raise ConfigError(f"--classes: {error}") from None
    sweep = itertools.product(
        _list(flags, "edges", _count),
        _list(flags, "link_rtt_ms", _amount),
        _list(flags, "loss", _share),
        _list(flags, "churn", _amount),
        loads(flags),
        _list(flags, "mode", _mode),
    )
    for num_edges, rtt_ms, loss, churn, load, mode in sweep:
        if num_edges and not kinds:
            raise ConfigError("--edge-models is empty: name the model of at least one edge")
        setting = Setting(
            cloud=cloud,
            edges=tuple(kinds[number % len(kinds)] for number in range(num_edges)),
            policy=policy_config(flags, mode),
            network=Network(rtt_ms / 1000, loss),
            churn=Churn(churn, flags.away_s),
            overheads=Overheads(
                flags.request_overhead_ms / 1000,
                flags.step_overhead_ms / 1000,
                flags.token_overhead_ms / 1000,
                flags.message_overhead_ms / 1000,
            ),
            edges_per_host=flags.edges_per_host,
            max_tokens=flags.max_tokens,
            deadline_s=flags.deadline_s,
            seed=flags.seed,
            tokens_per_event=flags.tokens_per_event,
        )
        yield Cell(setting, load, asked, classes, flags.requests, flags.clients)


def loads(flags: argparse.Namespace) -> list[Load]:
    """A trace, rates, or clients that wait for their answers; one is light load. Raises
    ConfigError."""
    swing, period_s = flags.rate_swing, flags.rate_period_s
    if not (0 <= swing <= 1 and period_s > 0):
        raise ConfigError(
            f"--rate-swing is {swing:g} and --rate-period-s {period_s:g}: a share from 0 to 1 and "
            "a time over 0 are wanted"
        )
    if swing and (flags.trace or not flags.rate):
        raise ConfigError("--rate-swing needs --rate: a trace and clients have their own times")
    if flags.trace:
        return [Load("trace", times=read_trace(Path(flags.trace)))]
    if flags.rate:
        rates = _list(flags, "rate", _amount)
        if not all(rates):
            raise ConfigError("--rate must be over 0")
        return [
            Load(_rate_name(rate, swing), per_min=rate, swing=swing, period_s=period_s)
            for rate in rates
        ]
    return [Load("light" if flags.clients == 1 else "saturated")]


def _rate_name(rate: float, swing: float) -> str:
    return f"{rate:g}/min" + (f"±{swing:.0%}" if swing else "")


def told(row: Row) -> str:
    """A row for people."""
    seconds = {name: (row[f"{name}_ms"] or 0.0) / 1000 for name in _TIMES}
    routes = ", ".join(f"{name} {share:.0%}" for name, share in row["routes"].items())
    return (
        f"{row['mode']:>8} {row['load']:>10} {row['edges']:>5} edges, {row['link_rtt_ms']:g} ms, "
        f"churn {row['churn_per_hour']:g}: {row['requests_per_min'] or 0:8.1f} requests/min, "
        f"p50 {seconds['latency_p50']:.2f} s, p95 {seconds['latency_p95']:.2f} s, "
        f"first text {seconds['first_text_p50']:.2f} s, tokens {row['cloud_tokens']}"
        f"+{row['edge_tokens']}, {routes}, {row['failures']} failures ({row['wall_s']:.1f} s)"
    )


_TIMES = ("latency_p50", "latency_p95", "first_text_p50")


def _list(flags: argparse.Namespace, name: str, parse: Callable[[str], T]) -> list[T]:
    """Values with commas. Raises ConfigError that names the flag."""
    given = str(getattr(flags, name))
    try:
        return [parse(word.strip()) for word in given.split(",")]
    except ValueError as error:
        raise ConfigError(f"--{name.replace('_', '-')} is {given!r}: {error}") from None


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) > 100_000:
        raise ValueError(f"{word!r} is not a whole number up to 100,000")
    return int(word)


def _amount(word: str) -> float:
    amount = float(word)
    if not 0 <= amount <= 1e9:
        raise ValueError(f"{word!r} is not a number from 0 on")
    return amount


def _share(word: str) -> float:
    share = float(word)
    if not 0 <= share <= 0.9:
        raise ValueError(f"{word!r} is not a share from 0 to 0.9")
    return share


def _mode(word: str) -> Mode:
    for mode in get_args(Mode):
        if mode == word:
            known: Mode = mode
            return known
    raise ValueError(f"{word!r} is none of {', '.join(get_args(Mode))}")
