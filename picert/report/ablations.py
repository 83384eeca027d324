"""What each part of pice gains where it matters: pice beside pice without it, on the same system,
under the same load. A part that is off by default has pice itself for what is without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picert.report.bootstrap import Bounds
from picert.report.pairs import (
    FIRST_TEXT,
    LATENCY,
    RATE,
    Pair,
    ratio_bounds,
    score_bounds,
    told,
)
from picert.report.rows import Row

WITHOUT, WITH = "pice_no_", "pice_with_"
HEAD = (
    *("part", "classes", "situation", "req/min", "p50", "first text", "cloud tokens", "score"),
    "repairs",
)


@dataclass(frozen=True, slots=True)
class Change:
    """A figure with the part and without it. `bounds` are of the ratio, of a score's difference."""

    whole: float
    without: float
    bounds: Bounds | None

    @property
    def ratio(self) -> float | None:
        """Of whole over without."""
        return self.whole / self.without if self.without else None

    @property
    def difference(self) -> float:
        """Of whole less without."""
        return self.whole - self.without


@dataclass(frozen=True, slots=True)
class Ablation:
    """One part switched, in one situation. A figure that was not measured is None."""

    part: str
    load: str
    classes: str
    edges: tuple[str, ...]
    rate: Change | None  # requests a minute: more is better
    latency: Change | None  # p50 in ms: less is better
    first_text: Change | None  # p50 in ms: less is better
    score: Change | None  # checklist points: more is better
    cloud_tokens: Change | None  # less is better
    repairs: Change | None

    def cells(self) -> tuple[str, ...]:
        """A line of the table that HEAD heads: with the part over without it, points apart."""
        return (
            *(self.part, self.classes, self.situation),
            *map(_times, (self.rate, self.latency, self.first_text, self.cloud_tokens)),
            *(_points(self.score), _counts(self.repairs)),
        )

    @property
    def situation(self) -> str:
        """Load and edges."""
        return f"{self.load}, {' '.join(self.edges)}" if self.edges else self.load


def ablations(rows: Sequence[Row]) -> list[Ablation]:
    """Of every measured cell without a part, or with one more, that has pice beside it."""
    measured = [row for row in rows if row.skipped is None and not row.is_simulated]
    pice = {_place(row): row for row in measured if row.mode == "pice"}
    found = []
    for row in measured:
        beside = pice.get(_place(row))
        if beside is not None and row.mode.startswith(WITHOUT):
            found.append(_ablation(row.mode.removeprefix(WITHOUT), (beside, row)))
        elif beside is not None and row.mode.startswith(WITH):
            found.append(_ablation(row.mode.removeprefix(WITH), (row, beside)))
    return found


def _place(row: Row) -> tuple[object, ...]:
    return row.system, row.classes, row.load


def _ablation(part: str, pair: tuple[Row, Row]) -> Ablation:
    """Of the cell with the part, and that without it."""
    row = pair[1]
    return Ablation(
        part=part,
        load=row.load,
        classes=row.classes,
        edges=row.edges,
        rate=_change(pair, RATE, bounds=ratio_bounds(pair, RATE)),
        latency=_change(pair, LATENCY, bounds=ratio_bounds(pair, LATENCY)),
        first_text=_change(pair, FIRST_TEXT, bounds=ratio_bounds(pair, FIRST_TEXT)),
        score=_change(pair, "checklist_score", "mean", bounds=score_bounds(pair)),
        cloud_tokens=_change(pair, "cloud_tokens"),
        repairs=_change(pair, "repairs"),
    )


def _change(pair: Pair, *figure: str, bounds: Bounds | None = None) -> Change | None:
    whole, without = (None if row is None else row.number(*figure) for row in pair)
    return None if whole is None or without is None else Change(whole, without, bounds)


def _times(change: Change | None) -> str:
    if change is None or change.ratio is None:
        return "none"
    return f"{change.ratio:.2f}x{told(change.bounds)}"


def _points(change: Change | None) -> str:
    return "none" if change is None else f"{change.difference:+.1f}{told(change.bounds)}"


def _counts(change: Change | None) -> str:
    return "none" if change is None else f"{change.whole:.0f} against {change.without:.0f}"
