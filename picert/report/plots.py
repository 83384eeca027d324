"""Plots of a benchmark's rows, each as SVG text. Figures are objects of their own: no pyplot, no
state of the process."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from picert.report.ablations import Ablation, ablations
from picert.report.page import Plot
from picert.report.rows import Row, find, modes_of, on_one_system, told_apart

_COLOURS = (
    *("#4c566a", "#d08770", "#b48ead", "#a3be8c", "#5e81ac", "#bf616a"),
    *("#88c0d0", "#8f7f3f", "#4f8f8f", "#7f5f8f", "#9f9f9f", "#c09f5f", "#5f8f5f"),
)
_SIZE = (8.0, 3.6)


def plots_of(rows: Sequence[Row]) -> list[Plot]:
    """All plots for which there are figures, over each set of classes."""
    measured = [row for row in rows if row.skipped is None]
    found: list[Plot | None] = []
    for classes in dict.fromkeys(row.classes for row in measured):
        every = [row for row in measured if row.classes == classes]
        one = on_one_system(every)
        of = [row for row in one if not row.is_variant]
        plots = (_throughput(of, classes), _latency(of, classes), _crossover(of, classes))
        apart = told_apart(every)[one[0].system]
        found += [_of_system(plot, apart) for plot in (*plots, _quality(of, classes))]
        found.append(_ablations(every, classes))
    return [plot for plot in found if plot is not None]


def _of_system(plot: Plot | None, apart: str) -> Plot | None:
    """With the words that tell its system from others, where there are any."""
    if plot is None or not apart:
        return plot
    return replace(plot, caption=f"{plot.caption} Of {apart} alone.")


def _throughput(rows: Sequence[Row], classes: str) -> Plot | None:
    """Bars: requests a minute of each mode when saturated, tokens spent beside it."""
    cells = [(row, row.number("requests_per_min")) for row in _ordered(rows, "saturated")]
    bars = [(row.mode, rate) for row, rate in cells if rate is not None]
    if not bars:
        return None
    figure, axes = _figure()
    axes.bar(
        [mode for mode, _ in bars],
        [rate for _, rate in bars],
        color=[_colour(rows, mode) for mode, _ in bars],
    )
    axes.bar_label(axes.containers[0], fmt="%.1f")  # type: ignore[arg-type]
    axes.set_ylabel("requests a minute")
    _tilted(axes, len(bars))
    return Plot(
        f"Throughput when saturated ({classes})",
        "Answers a minute with the same number of clients always waiting for one.",
        _svg(figure),
    )


def _latency(rows: Sequence[Row], classes: str) -> Plot | None:
    """Lines: median and 95th percentile of a mode against the requests a minute it served."""
    figure, axes = _figure()
    is_empty = True
    for mode in modes_of(rows):
        cells = [row for row in rows if row.mode == mode]
        points = sorted(
            (rate, p50 / 1000, (row.number("latency_p95_ms") or p50) / 1000)
            for row in cells
            if (rate := row.number("requests_per_min")) is not None
            and (p50 := row.number("latency_p50_ms")) is not None
        )
        if not points:
            continue
        is_empty = False
        x, p50s, p95s = zip(*points, strict=True)
        colour = _colour(rows, mode)
        axes.plot(x, p50s, "o-", color=colour, label=mode)
        axes.plot(x, p95s, "_:", color=colour, alpha=0.6)
    if is_empty:
        return None
    axes.set_xlabel("requests a minute served")
    axes.set_ylabel("seconds (p50 line, p95 dotted)")
    axes.set_yscale("log")
    axes.legend(fontsize=7)
    return Plot(
        f"Latency against load ({classes})",
        "Each point is one load, from one question at a time to saturated.",
        _svg(figure),
    )


def _crossover(rows: Sequence[Row], classes: str) -> Plot | None:
    """Lines: a mode's median latency over direct's, load by load; below one it is faster."""
    loads = _loads(rows)
    series = {}
    for mode in modes_of(rows):
        points = [
            (load, ours / theirs)
            for load in loads
            if (ours := _of(rows, classes, load, mode, "latency_p50_ms")) is not None
            and (theirs := _of(rows, classes, load, "direct", "latency_p50_ms"))
        ]
        if mode != "direct" and points:
            series[mode] = points
    if not series:
        return None
    figure, axes = _figure()
    axes.axhline(1.0, color="#4c566a", linewidth=1)
    for mode, points in series.items():
        axes.plot(
            [loads.index(load) for load, _ in points],
            [ratio for _, ratio in points],
            *("o-",),
            color=_colour(rows, mode),
            label=mode,
        )
    axes.set_xticks(range(len(loads)), loads)
    axes.set_ylabel("p50 latency over direct's")
    axes.legend(fontsize=7)
    return Plot(
        f"Crossover ({classes})",
        "Below the line a mode answers faster than the cloud alone does under the same load.",
        _svg(figure),
    )


def _quality(rows: Sequence[Row], classes: str) -> Plot | None:
    """Points with intervals: checklist score of each class, mode beside mode."""
    load = next((load for load in ("saturated", *_loads(rows)) if _ordered(rows, load)), None)
    if load is None:
        return None
    figure, axes = _figure()
    cells = _ordered(rows, load)
    names = sorted({name for row in cells for name in row.table("by_class")})
    is_empty = True
    for place, row in enumerate(cells):
        points = [
            (names.index(name), *interval)
            for name in names
            if (interval := _interval(row, "by_class", name, "checklist_score")) is not None
        ]
        if not points:
            continue
        is_empty = False
        shift = (place - (len(cells) - 1) / 2) * 0.8 / max(1, len(cells))
        axes.errorbar(
            [x + shift for x, *_ in points],
            [mean for _, mean, _, _ in points],
            yerr=[
                [mean - low for _, mean, low, _ in points],
                [high - mean for _, mean, _, high in points],
            ],
            fmt="o",
            markersize=4,
            capsize=2,
            color=_colour(rows, row.mode),
            label=row.mode,
        )
    if is_empty:
        return None
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("checklist score")
    axes.legend(fontsize=7, ncols=3)
    _tilted(axes, len(names))
    return Plot(
        f"Quality by class ({classes}, load {load})",
        "Mean checklist points with 95 % bootstrap intervals, graded by the judge model.",
        _svg(figure),
    )


def _ablations(rows: Sequence[Row], classes: str) -> Plot | None:
    """Bars: what each part gains in the figure that its situation is about, with intervals."""
    bars = [
        (f"{ablation.part}, {ablation.situation}", *better)
        for ablation in ablations(rows)
        if (better := _gain(ablation)) is not None
    ]
    if not bars:
        return None
    figure, axes = _figure(height=0.3 * len(bars) + 1.2)
    names, gains, below, above = zip(*bars, strict=True)
    axes.barh(names, gains, xerr=(below, above), color="#5e81ac", ecolor="#4c566a", capsize=2)
    axes.axvline(1.0, color="#4c566a", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times as good with the part as without it")
    return Plot(
        f"Ablations ({classes})",
        "Over 1 the part pays: in requests a minute when saturated, in p50 latency under other "
        "loads. Repair and ensemble are there for the score, which stands in the table.",
        _svg(figure),
    )


def _gain(ablation: Ablation) -> tuple[float, float, float] | None:
    """How much better with the part, and how far its interval goes down and up."""
    is_rate = ablation.load == "saturated"
    change = ablation.rate if is_rate else ablation.latency
    if change is None or not change.ratio:
        return None
    low, high = change.bounds or (change.ratio, change.ratio)
    gain, low, high = (
        (change.ratio, low, high) if is_rate else (1 / change.ratio, 1 / high, 1 / low)
    )
    return gain, max(0.0, gain - low), max(0.0, high - gain)


def _figure(height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _tilted(axes: Axes, num_labels: int) -> None:
    if num_labels > 6:
        axes.tick_params(axis="x", labelrotation=30)


def _colour(rows: Sequence[Row], mode: str) -> str:
    return _COLOURS[modes_of(rows).index(mode) % len(_COLOURS)]


def _loads(rows: Sequence[Row]) -> list[str]:
    """From light to heavy; numbers are shares of direct's rate."""
    weight = {"light": 0.0, "half": 0.5, "saturated": float("inf")}

    def key(load: str) -> float:
        return weight[load] if load in weight else float(load)

    return sorted({row.load for row in rows}, key=key)


def _ordered(rows: Sequence[Row], load: str) -> list[Row]:
    order = modes_of(rows)
    return sorted((r for r in rows if r.load == load), key=lambda row: order.index(row.mode))


def _of(rows: Sequence[Row], classes: str, load: str, mode: str, figure: str) -> float | None:
    row = find(rows, classes, load, mode)
    return None if row is None else row.number(figure)


def _interval(row: Row, *path: Any) -> tuple[float, float, float] | None:
    mean, low, high = (row.number(*path, name) for name in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return None
    return mean, low, high
