"""`picert-cloud` and `picert-edge`: flags to a config, and one line on stdout once they serve."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

from picert.cloud.main import run_cloud
from picert.commands.flags import cloud_config, edge_config
from picert.edge.identity import Identity, state_folder
from picert.edge.main import run_edge


def cloud(flags: argparse.Namespace) -> int:
    """Serve until told to stop. Raises PicertError for what stops it from starting."""
    return run_cloud(cloud_config(flags), _cloud_is_ready)


def edge(flags: argparse.Namespace) -> int:
    """Serve until told to stop. Raises PicertError for what stops it from starting."""
    with ExitStack() as stack:
        config = edge_config(
            flags, default_name=lambda: stack.enter_context(Identity(state_folder())).name
        )
        ready = f"picert-edge {config.name} ready: {config.link.address}"
        return run_edge(config, lambda: _say(ready))


def _cloud_is_ready(url: str, edge_address: str) -> None:
    _say(f"picert-cloud ready: {url} edges: {edge_address}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
