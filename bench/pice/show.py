"""What the benchmark prints: a line for each cell, and tables of what was wanted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from pice.rows import Row
from picert.report import rows as report_rows
from picert.report.ablations import HEAD, ablations
from picert.report.targets import targets


class Printed:
    """The rows of a run, each printed when it is added."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Print one result."""
        self._rows.append(row)
        print(json.dumps(row, ensure_ascii=False) if self._as_json else _line(row), flush=True)

    def targets(self) -> None:
        """What was wanted beside what these rows say."""
        found = targets([report_rows.Row(row) for row in self._rows])
        met = {True: "met", False: "missed", None: "-"}
        lines = [
            (target.name, target.wanted, target.measured, met[target.is_met]) for target in found
        ]
        self._table(("target", "wanted", "measured", ""), lines)

    def ablations(self) -> None:
        """What each part changes: the figure with it over the figure without it."""
        found = ablations([report_rows.Row(row) for row in self._rows])
        self._table(HEAD, [ablation.cells() for ablation in found])

    def _table(self, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
        """Beside JSON it goes where what is not a result goes."""
        cells = [head, *lines]
        widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
        for line in cells:
            row = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
            print(row.rstrip(), file=sys.stderr if self._as_json else sys.stdout, flush=True)


def _line(row: Row) -> str:
    name = f"{row['classes']:>12} {row['load']:>9} {row['mode']:>22}"
    if "skipped" in row:
        return f"{name}  skipped: {row['skipped']}"
    words = [*_speed(row), _score(row)]
    return f"{name}  {', '.join(word for word in words if word)}"


def _speed(row: Row) -> list[str]:
    if "requests_per_min" not in row:
        return []
    return [
        f"{row['requests_per_min'] or 0:7.2f} req/min",
        f"p50 {_seconds(row['latency_p50_ms'])} p95 {_seconds(row['latency_p95_ms'])}",
        f"first text {_seconds(row['first_text_p50_ms'])}",
        f"tokens {row['cloud_tokens']}+{row['edge_tokens']}",
        f"{row['repairs']} repairs, {row['failures']} failures",
    ]


def _score(row: Row) -> str:
    score = row["checklist_score"]
    if not score:
        return ""
    return f"score {score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}] of {score['n']}"


def _seconds(milliseconds: float | None) -> str:
    return "none" if milliseconds is None else f"{milliseconds / 1000:.1f} s"
