"""What progressive inference shall reach, and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picert.report.pairs import (
    FIRST_TEXT,
    LATENCY,
    RATE,
    Pair,
    ratio_bounds,
    score_bounds,
    told,
)
from picert.report.rows import Row, find, modes_of, on_one_system

_RIVALS = ("router", "sot", "static")
_QUALITY_POINTS = 5.0  # of the checklist, that count as equal


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table. Without `is_met` it was not measured, and `measured` says why."""

    name: str
    wanted: str
    measured: str
    is_met: bool | None


def targets(rows: Sequence[Row]) -> list[Target]:
    """The whole table, from whatever cells are there."""
    rows = on_one_system(rows)
    return [
        _rate(rows, "suitable", at_least=2.5),
        _rate(rows, "all", at_least=1.6),
        _latency(rows, "suitable", LATENCY, at_most=0.45),
        _latency(rows, "suitable", FIRST_TEXT, at_most=1.2),
        _quality(rows),
        _rivals(rows),
        _latency(rows, "unsuitable", LATENCY, at_most=1.03),
    ]


def _rate(rows: Sequence[Row], classes: str, *, at_least: float) -> Target:
    name = f"requests a minute, saturated, {classes} classes, of pice against direct"
    return _times(name, _pair(rows, classes, "saturated"), RATE, at_least=at_least)


def _latency(rows: Sequence[Row], classes: str, figure: str, *, at_most: float) -> Target:
    what = {LATENCY: "p50 latency", FIRST_TEXT: "first text"}[figure]
    name = f"{what}, light load, {classes} classes, of pice against direct"
    return _times(name, _pair(rows, classes, "light"), figure, at_most=at_most)


def _pair(rows: Sequence[Row], classes: str, load: str) -> Pair:
    """pice's cell, and direct's."""
    return find(rows, classes, load, "pice"), find(rows, classes, load, "direct")


def _times(
    name: str,
    pair: Pair,
    figure: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Target:
    bound = at_least if at_least is not None else at_most
    assert bound is not None
    wanted = f"at {'least' if at_least is not None else 'most'} {bound:g}x"
    ours, theirs = (None if row is None else row.number(figure) for row in pair)
    if ours is None or not theirs:
        return Target(name, wanted, "not measured", None)
    ratio = ours / theirs
    is_met = ratio >= bound if at_least is not None else ratio <= bound
    return Target(name, wanted, f"{ratio:.2f}x{told(ratio_bounds(pair, figure))}", is_met)


def _quality(rows: Sequence[Row]) -> Target:
    """Beside it stand the scores of all other modes."""
    name = "checklist score, suitable classes, of pice against direct"
    wanted = f"no more than {_QUALITY_POINTS:g} points lower"
    for load in ("saturated", "light"):
        scores = _scores(rows, "suitable", load)
        if "pice" not in scores or "direct" not in scores:
            continue
        ours, theirs = scores.pop("pice"), scores.pop("direct")
        bounds = score_bounds(_pair(rows, "suitable", load))
        others = "".join(f", {mode} {score:.1f}" for mode, score in scores.items())
        measured = f"{ours:.1f} against {theirs:.1f}{told(bounds)}, load {load}{others}"
        return Target(name, wanted, measured, ours >= theirs - _QUALITY_POINTS)
    return Target(name, wanted, "not measured", None)


def _scores(rows: Sequence[Row], classes: str, load: str) -> dict[str, float]:
    """Of every mode that has one; parts that are switched are another table's affair."""
    found = {}
    for mode in modes_of(row for row in rows if not row.is_variant):
        row = find(rows, classes, load, mode)
        score = None if row is None else row.number("checklist_score", "mean")
        if score is not None:
            found[mode] = score
    return found


def _rivals(rows: Sequence[Row]) -> Target:
    """Of the baselines whose quality is equal or better, the fastest counts."""
    name = (
        "requests a minute, saturated, suitable classes, against the best of "
        f"{', '.join(_RIVALS)} at equal quality"
    )
    wanted = "at least 1.25x"
    pice = find(rows, "suitable", "saturated", "pice")
    score = None if pice is None else pice.number("checklist_score", "mean")
    found = [find(rows, "suitable", "saturated", mode) for mode in _RIVALS]
    rivals = [row for row in found if row is not None]
    if pice is None or score is None or not rivals:
        return Target(name, wanted, "not measured", None)
    equal = [
        row
        for row in rivals
        if (row.number("checklist_score", "mean") or 0.0) >= score - _QUALITY_POINTS
    ]
    if not equal:
        return Target(name, wanted, "none of them has equal quality", True)
    best = max(equal, key=lambda row: row.number(RATE) or 0.0)
    target = _times(name, (pice, best), RATE, at_least=1.25)
    return Target(name, wanted, f"{target.measured} of {best.mode}", target.is_met)
