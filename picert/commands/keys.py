"""`picert keygen`, `picert edge add|remove|list` and `picert-edge doctor`: who may connect to
whom, and why it does not work."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from picert import __version__
from picert.commands.flags import link_config
from picert.config import LinkConfig, from_environment
from picert.errors import ConfigError
from picert.transport.doctor import examine
from picert.transport.keys import AllowList, default_edges_file, new_pair, parse_public, write_pair


def keygen(flags: argparse.Namespace) -> int:
    """Write a secret key, print its public one. Raises ConfigError."""
    pair = new_pair()
    write_pair(Path(flags.file), pair)
    _say(pair.public.hex())
    return 0


def edge(flags: argparse.Namespace) -> int:
    """Change or show the list of keys that may connect. Raises ConfigError."""
    allowed = AllowList(_edges_file(flags))
    if flags.action == "list":
        for public, name in allowed.names.items():
            _say(f"{public.hex()} {name}".rstrip())
        return 0
    if flags.key is None:
        raise ConfigError(f"picert edge {flags.action} KEY: give the edge's public key")
    key = parse_public(flags.key, "the edge's public key")
    if flags.action == "add":
        allowed.add(key, flags.name)
    else:
        allowed.remove(key)
    return 0


def doctor(flags: argparse.Namespace) -> int:
    """Say what is well, up to the first cause that is not. Raises PicertError for that."""
    return asyncio.run(_examine(link_config(flags)))


async def _examine(config: LinkConfig) -> int:
    async for finding in examine(config, __version__):
        _say(f"{finding.about:<8} {finding.text}")
    return 0


def _edges_file(flags: argparse.Namespace) -> Path:
    given = flags.edges_file or from_environment("edges_file")
    return Path(given) if given else default_edges_file()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
