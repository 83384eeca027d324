"""docs/operations.md, followed line by line: a secured cloud on one host, an edge on another.

The hosts are network namespaces. What a reader fills in is filled in here; a tiny model stands for
the real ones.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiny_models import make_gguf
from two_hosts import COMMAND_S, ROOT, Host, refusal, two_hosts

from picert.commands.processes import Child

REFUSAL = refusal()
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL)),
]


def blocks() -> Iterator[list[str]]:
    """The commands of the page's first section, block by block."""
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("## Cloud and edge on two hosts")[2].partition("\n## ")[0]
    for block in re.findall(r"^```\n(.*?)^```$", section, re.M | re.S):
        yield [line.partition("  #")[0].strip() for line in block.splitlines()]


@dataclass
class Reader:
    """Somebody who types what the page says, at one host; /etc/picert is a folder of the test."""

    host: Host
    folder: Path
    filled_in: dict[str, str]  # what the page leaves open, and what it is here
    servers: list[Child] = field(default_factory=list)

    async def type(self, line: str, *, code: int = 0) -> str:
        """Run one command to its end; returns what it printed, or its error where it shall fail."""
        log = self.folder / f"{line.split()[0]}.log"
        process = await self.host.start(self._command(line), log)
        printed, _ = await asyncio.wait_for(process.communicate(), COMMAND_S)
        assert process.returncode == code, (line, printed, log.read_text()[-2000:])
        if line.startswith("cp deploy/"):
            copied = self.folder / Path(line.split()[-1]).name
            copied.write_text(self._filled_in(copied.read_text()))
        return log.read_text() if code else printed.decode()

    async def start(self, line: str) -> str:
        """Start a server; returns what it says when it is ready."""
        log = self.folder / "server.log"
        server = Child(line, await self.host.start(self._command(line), log), log)
        self.servers.append(server)
        return await server.ready_line(COMMAND_S)

    def _command(self, line: str) -> str:
        line = self._filled_in(line)
        return f"bash -c '{line}'" if ";" in line else line

    def _filled_in(self, text: str) -> str:
        for name, value in {"/etc/picert": str(self.folder), **self.filled_in}.items():
            text = text.replace(name, value)
        return text


@asynccontextmanager
async def readers(folder: Path, model: Path) -> AsyncIterator[tuple[Reader, Reader]]:
    """One at each host; what they started is ended."""
    async with two_hosts() as (cloud, edge):
        both = []
        for name, host in (("cloud", cloud), ("edge", edge)):
            (folder / name).mkdir()
            filled_in = {
                "cloud.example": cloud.address,
                "qwen2.5-coder-1.5b-instruct": str(model),
                "qwen2.5-coder-0.5b-instruct": str(model),
            }
            both.append(Reader(host, folder / name, filled_in))
        try:
            yield both[0], both[1]
        finally:
            for reader in reversed(both):
                for server in reader.servers:
                    await server.stop()


async def test_the_page_alone_leads_to_an_answer_of_an_edge_on_another_host(
    tmp_path: Path,
) -> None:
    prepare_cloud, prepare_edge, let_in, start_edge, use = blocks()
    async with readers(tmp_path, make_gguf(tmp_path, "qwen2")) as (at_cloud, at_edge):
        cloud_key, *_ = [await at_cloud.type(line) for line in prepare_cloud[:-1]]
        assert "picert-cloud ready" in await at_cloud.start(prepare_cloud[-1])
        at_edge.filled_in["0" * 64] = cloud_key.strip()
        edge_key = await at_edge.type(prepare_edge[0])
        await at_edge.type(prepare_edge[1])
        advice = await at_edge.type(prepare_edge[2], code=1)
        assert f"picert edge add {edge_key.strip()}" in advice
        at_cloud.filled_in["PUBLIC_KEY_OF_THE_EDGE"] = edge_key.strip()
        for line in let_in:
            await at_cloud.type(line)
        await at_edge.type(start_edge[0])
        await at_edge.start(start_edge[1])
        keys = {name: (at_cloud.folder / f"{name}-keys").read_text() for name in ("api", "admin")}
        at_edge.filled_in |= {"USER_KEY": keys["api"].strip(), "ADMIN_KEY": keys["admin"].strip()}
        ask, top = use
        assert await at_edge.type(ask)
        told = json.loads(await at_edge.type(f"{ask} --route edge_only --json --max-tokens 8"))
        assert told["route"] == "edge_only"  # else the cloud would have said "fallback"
        assert told["answer"]
        assert "kitchen" in await at_edge.type(f"{top} --once")
