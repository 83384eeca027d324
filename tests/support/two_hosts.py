"""Two hosts without a second machine: network namespaces joined by a veth pair, made without any
privilege where the kernel lets users have namespaces of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND_S = 60.0


def refusal() -> str | None:
    """Why there can be no two hosts here; None if there can."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"needs the command {tool}"
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    return f"needs network namespaces: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Host:
    """One of them: its address, and the process that holds its namespace."""

    address: str
    holder: Process

    async def start(self, command: str, log: Path) -> Process:
        """Run a line of a shell there, in the repository, with picert's commands; its errors go to
        `log`."""
        inside = ("--user", "--net", "--preserve-credentials", "--target", str(self.holder.pid))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with log.open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                *("nsenter", *inside, "bash", "-c", f"exec {command}"),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PATH": path},
            )


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[Host, Host]]:
    """Both, with nothing between them but a cable."""
    first = await _hold("unshare", "--user", "--map-root-user", "--net")
    try:
        pid = str(first.pid)
        within = ("nsenter", "--user", "--net", "--preserve-credentials", "--target", pid)
        second = await _hold(*within, "unshare", "--net")
        try:
            await _wire(first, second)
            yield Host("10.77.0.1", first), Host("10.77.0.2", second)
        finally:
            second.kill()
            await second.wait()
    finally:
        first.kill()
        await first.wait()


async def _hold(*how: str) -> Process:
    """A process that does nothing, in namespaces of its own; returns when it is there."""
    process = await asyncio.create_subprocess_exec(
        *(*how, "sh", "-c", "echo there; exec sleep 600"), stdin=DEVNULL, stdout=PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), COMMAND_S) == b"there\n"
    return process


async def _wire(first: Process, second: Process) -> None:
    """A veth pair between the two."""
    steps = (
        (first, f"ip link add veth0 type veth peer name veth1 netns {second.pid}"),
        (first, "ip addr add 10.77.0.1/24 dev veth0"),
        (second, "ip addr add 10.77.0.2/24 dev veth1"),
        *((host, "ip link set lo up") for host in (first, second)),
        (first, "ip link set veth0 up"),
        (second, "ip link set veth1 up"),
    )
    for host, step in steps:
        within = ("--user", "--net", "--preserve-credentials", "--target", str(host.pid))
        process = await asyncio.create_subprocess_exec("nsenter", *within, *step.split())
        assert await asyncio.wait_for(process.wait(), COMMAND_S) == 0, step
