"""`picert report`: one HTML page from the lines of bench_pice.py.

matplotlib is an extra, so what draws is loaded only here and by name.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from picert.errors import ConfigError
from picert.report.page import page
from picert.report.rows import read_rows
from picert.report.targets import targets


def run(flags: argparse.Namespace) -> int:
    """Read, draw, write. Raises PicertError."""
    rows = read_rows(Path(path) for path in flags.files)
    if find_spec("matplotlib") is None:
        raise ConfigError("picert report needs matplotlib: pip install 'picert[report]'")
    plots: Any = import_module("picert.report.plots")
    text = page(rows, targets(rows), plots.plots_of(rows))
    out = Path(flags.out)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}: give another --out") from None
    sys.stdout.write(f"{out}\n")
    return 0
