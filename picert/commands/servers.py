"""`picert-cloud` and `picert-edge`: flags to a config, and one line on stdout once they serve."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys

from picert.cloud.main import run_cloud
from picert.commands.flags import cloud_config, edge_config
from picert.edge.main import run_edge

_NAME_CHARS = re.compile(r"[^A-Za-z0-9._-]+")


def cloud(flags: argparse.Namespace) -> int:
    """Serve until told to stop. Raises PicertError for what stops it from starting."""
    return run_cloud(cloud_config(flags), _cloud_is_ready)


def edge(flags: argparse.Namespace) -> int:
    """Serve until told to stop. Raises PicertError for what stops it from starting."""
    config = edge_config(flags, default_name=_default_name())
    return run_edge(config, lambda: _say(f"picert-edge {config.name} ready: {config.link.address}"))


def _cloud_is_ready(url: str, edge_address: str) -> None:
    _say(f"picert-cloud ready: {url} edges: {edge_address}")


def _default_name() -> str:
    """Of this process: two edges on one machine differ, and one keeps its name over reconnects."""
    host = _NAME_CHARS.sub("-", socket.gethostname())[:40] or "edge"
    return f"{host}-{os.getpid()}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
