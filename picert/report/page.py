"""One self-contained HTML page: the targets, the plots, every figure. All text is escaped; pictures
are data of the page, so that it needs no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from picert.report.ablations import HEAD, Ablation, ablations
from picert.report.rows import Row, told_apart
from picert.report.targets import Target

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem;
  color: #2e3440; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: 13px; } .wide { overflow-x: auto; }
th, td { border-bottom: 1px solid #d8dee9; padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child, .words td { text-align: left; }
figure { margin: 1rem 0; } figcaption, .note { color: #5a6478; font-size: 13px; }
img { max-width: 100%; } .met { color: #3f7f3f; } .missed { color: #a04040; }
"""
_FIGURES = (
    ("req/min", ("requests_per_min",), 2),
    ("p50 s", ("latency_p50_ms",), None),
    ("p95 s", ("latency_p95_ms",), None),
    ("first text p50 s", ("first_text_p50_ms",), None),
    ("cloud tokens", ("cloud_tokens",), 0),
    ("edge tokens", ("edge_tokens",), 0),
    ("sketch ratio", ("sketch_ratio",), 3),
    ("repairs", ("repairs",), 0),
    ("fall-backs", ("fallbacks",), 0),
    ("failures", ("failures",), 0),
    ("link bytes", ("bytes_sent",), 0),
    ("of an answer", ("bytes_per_answer",), 0),
    ("score", ("checklist_score", "mean"), 1),
    ("swap consistency", ("pairwise", "swap_consistency"), 2),
    ("length to direct", ("length_to_direct",), 2),
    ("truncated", ("mechanical", "truncated"), 2),
    ("exact", ("mechanical", "exact"), 2),
    ("code runs", ("mechanical", "code_runs"), 2),
)
_ENVIRONMENT = (
    *("machine", "picert", "commit", "python", "cloud_model", "edge_models", "cpus_cloud"),
    *("cpus_edge", "max_tokens", "link_rtt_ms", "clients", "seed", "judge", "judge_self_test"),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture and what it shows."""

    title: str
    caption: str
    svg: str


def page(rows: Sequence[Row], targets: Sequence[Target], plots: Sequence[Plot]) -> str:
    """The whole document."""
    measured = [row for row in rows if row.skipped is None]
    skipped = [row for row in rows if row.skipped is not None]
    parts = [
        "<h1>Progressive inference: what it gains and costs</h1>",
        _targets_table(targets),
        *(_figure(plot) for plot in plots),
        _ablations_table(ablations(rows)),
        "<h2>Figures</h2>",
        _figures_table(measured),
        _missing(measured),
        _skipped_table(skipped),
        _environment(measured),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>picert: progressive inference</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _targets_table(targets: Sequence[Target]) -> str:
    words = {True: ("met", "met"), False: ("missed", "missed"), None: ("", "")}
    lines = [
        _cells("td", (target.name, target.wanted, target.measured))
        + f'<td class="{words[target.is_met][0]}">{words[target.is_met][1]}</td>'
        for target in targets
    ]
    return "<h2>Targets</h2>" + _table(("what", "wanted", "measured", ""), lines, "words")


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.svg.encode()).decode("ascii")
    title = escape(plot.title)
    return (
        f'<h2>{title}</h2><figure><img alt="{title}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _ablations_table(found: Sequence[Ablation]) -> str:
    lines = [_cells("td", ablation.cells()) for ablation in found]
    return "<h2>With a part over without it</h2>" + _table(HEAD, lines, "words") if lines else ""


def _figures_table(rows: Sequence[Row]) -> str:
    head = ("mode", "load", "classes", "from", *(name for name, _, _ in _FIGURES), "routes")
    lines = []
    systems = told_apart(rows)
    for row in rows:
        kind = "simulation" if row.is_simulated else "measurement"
        origin = f"{kind}: {systems[row.system]}" if systems[row.system] else kind
        numbers = [_number(row.number(*path), digits) for _, path, digits in _FIGURES]
        routes = ", ".join(f"{name} {share}" for name, share in row.table("routes").items())
        lines.append(_cells("td", (row.mode, row.load, row.classes, origin, *numbers, routes)))
    return _table(head, lines) if lines else '<p class="note">No cell has figures.</p>'


def _number(value: float | None, digits: int | None) -> str:
    """As text; without `digits` milliseconds become seconds."""
    if value is None:
        return "none"
    return f"{value / 1000:.2f}" if digits is None else f"{value:.{digits}f}"


def _missing(rows: Sequence[Row]) -> str:
    """Why single figures are missing, and what went wrong."""
    notes = [
        f"{row.mode}, {row.load}, {row.classes}: {name}: {reason}"
        for row in rows
        for name, reason in {**row.table("missing"), **row.table("errors")}.items()
    ]
    return _list(notes)


def _skipped_table(rows: Sequence[Row]) -> str:
    lines = [_cells("td", (r.mode, r.load, r.classes, r.skipped or "")) for r in rows]
    head = ("mode", "load", "classes", "why")
    return "<h2>Not measured</h2>" + _table(head, lines, "words") if lines else ""


def _environment(rows: Sequence[Row]) -> str:
    """What all rows share, and where they differ: then all values."""
    notes = []
    for name in _ENVIRONMENT:
        values = dict.fromkeys(_text(r.fields[name]) for r in rows if name in r.fields)
        if values:
            notes.append(f"{name}: {'; '.join(values)}")
    return "<h2>Setting</h2>" + _list(notes) if notes else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _list(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return '<ul class="note">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _table(head: Iterable[str], lines: Sequence[str], style: str = "") -> str:
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table class="{style}"><thead><tr>{_cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
