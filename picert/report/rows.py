"""Lines of bench_pice.py and of `picert simulate`; any figure of them may be missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picert.errors import ConfigError

_Key = tuple[bool, str, str, str, tuple[str, ...]]
BENCHES = ("pice", "simulate")
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
    """The rows of all files, of each cell the last; lines of other benchmarks are left out. What
    answers were worth may be in lines of its own, and is then put to its cell. Raises ConfigError
    for a file that cannot be read, is not JSON lines, or if no row is left."""
    cells: dict[_Key, Row] = {}
    quality: dict[_Key, Row] = {}
    names = []
    for path in paths:
        names.append(str(path))
        for number, line in enumerate(_lines(path), start=1):
            row = _row(path, number, line)
            if row is not None:
                key = (row.is_simulated, row.classes, row.load, row.mode, row.edges)
                found = quality if row.fields.get("of") == "quality" else cells
                found.pop(key, None)
                found[key] = row
    if not cells and not quality:
        raise ConfigError(
            f"{', '.join(names)}: no line of bench_pice.py: run it with --json and keep its output"
        )
    for key, row in quality.items():
        cells[key] = _with_quality(cells[key], row) if key in cells else row
    return list(cells.values())


def _with_quality(cell: Row, quality: Row) -> Row:
    missing = {**cell.table("missing"), **quality.table("missing")}
    for name in ("checklist_score", "pairwise"):
        if quality.fields.get(name) is not None:
            missing.pop(name, None)
    return Row({**cell.fields, **quality.fields, "missing": missing})


def on_one_system(rows: Sequence[Row]) -> list[Row]:
    """The rows of those edges that most rows are of: only they can be compared with each other."""
    counts = Counter(row.edges for row in rows)
    most = max(counts, key=lambda edges: counts[edges], default=())
    return [row for row in rows if row.edges == most]


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
