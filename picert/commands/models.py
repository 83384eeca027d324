"""`picert pull` and `picert list`."""

from __future__ import annotations

import argparse
import json
import sys

from picert import hub


def pull(flags: argparse.Namespace) -> int:
    """Fetch a model and say where it is. Raises ModelNotFound or ModelError."""
    path = hub.pull(flags.model, progress=not flags.quiet)
    sys.stdout.write(f"{path}\n")
    return 0


def listing(flags: argparse.Namespace) -> int:
    """The catalogue, with what is installed."""
    entries = hub.catalogue()
    if flags.json:
        models = [
            {
                **{"name": entry.name, "role": entry.role, "parameters": entry.parameters},
                **{"size_bytes": entry.size_bytes, "license": entry.license},
                "path": str(entry.path) if entry.installed else None,
            }
            for entry in entries
        ]
        sys.stdout.write(json.dumps({"models": models}, indent=2) + "\n")
        return 0
    rows = [("NAME", "ROLE", "PARAMETERS", "SIZE", "LICENCE", "HERE")]
    rows += [
        (
            *(entry.name, entry.role, entry.parameters),
            *(f"{entry.size_bytes / 1e6:,.0f} MB", entry.license),
            "yes" if entry.installed else f"no: picert pull {entry.name}",
        )
        for entry in entries
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0
