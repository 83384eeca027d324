"""What progressive inference shall reach, and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picert.report.rows import Row, find

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
    against = "of pice against direct"
    return [
        _times(
            f"requests a minute, saturated, suitable classes, {against}",
            *_pair(rows, "suitable", "saturated", "requests_per_min"),
            at_least=2.5,
        ),
        _times(
            f"requests a minute, saturated, all classes, {against}",
            *_pair(rows, "all", "saturated", "requests_per_min"),
            at_least=1.6,
        ),
        _times(
            f"p50 latency, light load, suitable classes, {against}",
            *_pair(rows, "suitable", "light", "latency_p50_ms"),
            at_most=0.45,
        ),
        _times(
            f"first text, light load, suitable classes, {against}",
            *_pair(rows, "suitable", "light", "first_text_p50_ms"),
            at_most=1.2,
        ),
        _quality(rows),
        _rivals(rows),
        _times(
            f"p50 latency, light load, unsuitable classes, {against}",
            *_pair(rows, "unsuitable", "light", "latency_p50_ms"),
            at_most=1.03,
        ),
    ]


def _pair(
    rows: Sequence[Row], classes: str, load: str, *figure: str
) -> tuple[float | None, float | None]:
    """pice's figure, and direct's."""
    pice, direct = (
        None if row is None else row.number(*figure)
        for row in (find(rows, classes, load, mode) for mode in ("pice", "direct"))
    )
    return pice, direct


def _times(
    name: str,
    figure: float | None,
    base: float | None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Target:
    bound = at_least if at_least is not None else at_most
    assert bound is not None
    wanted = f"at {'least' if at_least is not None else 'most'} {bound:g}x"
    if figure is None or not base:
        return Target(name, wanted, "not measured", None)
    ratio = figure / base
    is_met = ratio >= bound if at_least is not None else ratio <= bound
    return Target(name, wanted, f"{ratio:.2f}x", is_met)


def _quality(rows: Sequence[Row]) -> Target:
    name = "checklist score, suitable classes, of pice against direct"
    wanted = f"no more than {_QUALITY_POINTS:g} points lower"
    for load in ("saturated", "light"):
        ours, theirs = _pair(rows, "suitable", load, "checklist_score", "mean")
        if ours is not None and theirs is not None:
            told = f"{ours:.1f} against {theirs:.1f}, load {load}"
            return Target(name, wanted, told, ours >= theirs - _QUALITY_POINTS)
    return Target(name, wanted, "not measured", None)


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
    best = max(equal, key=lambda row: row.number("requests_per_min") or 0.0)
    target = _times(
        name,
        pice.number("requests_per_min"),
        best.number("requests_per_min"),
        at_least=1.25,
    )
    return Target(name, wanted, f"{target.measured} of {best.mode}", target.is_met)
