"""Lines of bench_pice.py and of `picert simulate`; any figure of them may be missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picert.errors import ConfigError

System = tuple[tuple[str, str], ...]  # names and values
_Place = tuple[str, str, str, tuple[str, ...]]
BENCHES = ("pice", "simulate")
# What may set two systems, or two runs of them, apart. A line tells what its benchmark has of it.
_SETTING = (
    *("bench", "cloud_model", "edge_models", "edges", "edges_per_host", "cpus_cloud", "cpus_edge"),
    *("link_rtt_ms", "loss", "churn_per_hour", "clients", "max_tokens", "tokens_per_event", "seed"),
)
_ORDER = ("direct", "edge_only", "router", "sot", "static", "pice")  # of modes, then the others


@dataclass(frozen=True, slots=True)
class Row:
    """One cell: a mode under a load, over some classes."""

    fields: dict[str, Any]

    @property
    def mode(self) -> str:
        """Its name."""
        return str(self.fields["mode"])

    @property
    def is_variant(self) -> bool:
        """A mode with a part switched off or on."""
        return "_no_" in self.mode or "_with_" in self.mode

    @property
    def load(self) -> str:
        """light, half, saturated, or a share of direct's rate."""
        return str(self.fields["load"])

    @property
    def classes(self) -> str:
        """The set of classes that the questions were of."""
        return str(self.fields["classes"])

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the edges' models, an edge each; empty where they are not told."""
        names = self.fields.get("edge_models")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    @property
    def system(self) -> System:
        """What it was measured on, as far as that is told, its benchmark first: only rows of one
        system can be compared with each other."""
        told = {name: self.fields[name] for name in _SETTING if name in self.fields}
        words = {**told, "edge_models": " ".join(self.edges)} if self.edges else told
        return tuple((name, str(value)) for name, value in words.items())

    @property
    def place(self) -> _Place:
        """Which cell it is, on whatever system: all that a line of scores tells."""
        return self.classes, self.load, self.mode, self.edges

    @property
    def is_simulated(self) -> bool:
        """Whether a virtual clock gave its times."""
        return str(self.fields["bench"]) == "simulate"

    @property
    def skipped(self) -> str | None:
        """Why it has no figures, if it has none."""
        reason = self.fields.get("skipped")
        return None if reason is None else str(reason)

    def number(self, *path: str) -> float | None:
        """A figure, by the names that lead to it; None if it is missing."""
        value: Any = self.fields
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else None

    def numbers(self, name: str) -> dict[str, float]:
        """A field that holds named figures; without those that are missing."""
        found = {key: self.number(name, key) for key in self.table(name)}
        return {key: value for key, value in found.items() if value is not None}

    def series(self, name: str) -> list[float]:
        """A field that is a list of figures; empty if it is missing."""
        value = self.fields.get(name)
        return [float(x) for x in value] if isinstance(value, list) else []

    def table(self, name: str) -> dict[str, Any]:
        """A field that holds named things; empty if it is missing."""
        value = self.fields.get(name)
        return value if isinstance(value, dict) else {}


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """The rows of all files, of each cell on each system the last; lines of other benchmarks are
    left out. What answers were worth may be in lines of its own, which tell no system, and is then
    put to the last of its cells. Raises ConfigError for a file that cannot be read, is not JSON
    lines, or if no row is left."""
    cells: dict[tuple[System, _Place], Row] = {}
    quality: dict[_Place, Row] = {}
    names = []
    for path in paths:
        names.append(str(path))
        for number, line in enumerate(_lines(path), start=1):
            row = _row(path, number, line)
            if row is None:
                continue
            if row.fields.get("of") == "quality":
                quality[row.place] = row
                continue
            cells.pop((row.system, row.place), None)  # so that it is the last one
            cells[row.system, row.place] = row
    if not cells and not quality:
        raise ConfigError(
            f"{', '.join(names)}: no line of bench_pice.py: run it with --json and keep its output"
        )
    last = {row.place: key for key, row in cells.items() if not row.is_simulated}
    for place, row in quality.items():
        if place in last:
            cells[last[place]] = _with_quality(cells[last[place]], row)
        else:
            cells[row.system, place] = row
    return list(cells.values())


def _with_quality(cell: Row, quality: Row) -> Row:
    missing = {**cell.table("missing"), **quality.table("missing")}
    for name in ("checklist_score", "pairwise"):
        if quality.fields.get(name) is not None:
            missing.pop(name, None)
    return Row({**cell.fields, **quality.fields, "missing": missing})


def on_one_system(rows: Sequence[Row]) -> list[Row]:
    """The rows of that system which most are of, a measured one where there is any."""
    counts = Counter((not row.is_simulated, row.system) for row in rows)
    best = max(counts, key=lambda key: (key[0], counts[key]), default=None)
    return [row for row in rows if best is not None and row.system == best[1]]


def told_apart(rows: Sequence[Row]) -> dict[System, str]:
    """Each system among the rows in words: what is not the same of all of its benchmark's."""
    systems = dict.fromkeys(row.system for row in rows)
    num_systems = Counter(bench for bench, *_ in systems)
    num_alike = Counter((bench, pair) for bench, *pairs in systems for pair in pairs)
    return {
        system: ", ".join(
            f"{name} {value}"
            for name, value in system[1:]
            if num_alike[system[0], (name, value)] < num_systems[system[0]]
        )
        for system in systems
    }


def modes_of(rows: Iterable[Row]) -> list[str]:
    """Names of modes, baselines first."""
    found = dict.fromkeys(row.mode for row in rows)
    return sorted(found, key=lambda m: (_ORDER.index(m) if m in _ORDER else len(_ORDER), m))


def find(rows: Sequence[Row], classes: str, load: str, mode: str) -> Row | None:
    """The measured cell, if it is there and has figures."""
    for row in rows:
        is_it = (row.classes, row.load, row.mode) == (classes, load, mode)
        if is_it and row.skipped is None and not row.is_simulated:
            return row
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _row(path: Path, number: int, line: str) -> Row | None:
    if not line.strip():
        return None
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}, line {number} is not JSON: {error}") from None
    if not isinstance(fields, dict) or fields.get("bench") not in BENCHES:
        return None
    if missing := [name for name in ("mode", "load", "classes") if name not in fields]:
        raise ConfigError(f"{path}, line {number} has no {missing[0]!r}")
    return Row(fields)
