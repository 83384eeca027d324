"""A cloud and edges with authors in them, as processes, over encrypted links through wires that can
be spoilt. Whatever is started here is ended here."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bad_wire import BadWire

from picert.config import CloudConfig, EdgeConfig, EngineConfig, LinkConfig
from picert.transport.keys import AllowList, new_pair, read_pair, write_pair

SCRIPT = Path(__file__).with_name("author_process.py")
START_S = 60.0
BEAT_S = 0.2


async def start(folder: Path, name: str, *arguments: str) -> tuple[Process, str]:
    """Run the script; returns with its first line, its log is in `folder`."""
    with (folder / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SCRIPT), *arguments), stdout=PIPE, stderr=log
        )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_S)
    assert line, f"{name} did not start: {(folder / f'{name}.log').read_text()[-2000:]}"
    return process, line.decode().strip()


async def end(process: Process, how: signal.Signals = signal.SIGKILL) -> int:
    """End a process, whatever state it is in."""
    if process.returncode is None:
        process.send_signal(how)
        if how != signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
    try:
        return await asyncio.wait_for(process.wait(), 15.0)
    except asyncio.TimeoutError:
        process.kill()
        return await process.wait()


@dataclass
class Edge:
    """One edge, its wire, and how to start it again."""

    name: str
    wire: BadWire
    process: Process
    arguments: tuple[str, ...]


@dataclass
class Network:
    """What runs, and a client of it."""

    folder: Path
    cloud: Process
    cloud_arguments: tuple[str, ...]
    client: httpx.AsyncClient
    url: str
    link_port: int
    edges: dict[str, Edge] = field(default_factory=dict)

    async def ready_edges(self) -> set[str]:
        """Names of the edges that take jobs; none while the cloud is away."""
        try:
            response = await self.client.get("/health/ready")
        except httpx.TransportError:
            return set()
        return set(response.json().get("edges", ()))

    async def wait_for_edges(self, timeout_s: float = 30.0) -> float:
        """Until all take jobs; returns the seconds that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while await self.ready_edges() != set(self.edges):
            assert loop.time() < began + timeout_s, (
                f"edges after {timeout_s} s: {await self.report()}"
            )
            await asyncio.sleep(0.02)
        return loop.time() - began

    async def report(self) -> list[dict[str, Any]]:
        """What the cloud says of its edges."""
        edges: list[dict[str, Any]] = (await self.client.get("/admin/edges")).json()["edges"]
        return edges

    async def restart_edge(self, name: str, how: signal.Signals) -> None:
        """End an edge and start it again under its name."""
        edge = self.edges[name]
        await end(edge.process, how)
        edge.process, _ = await start(self.folder, name, *edge.arguments)

    async def restart_cloud(self, how: signal.Signals) -> int:
        """End the cloud and start it again on its ports; returns the code it ended with."""
        code = await end(self.cloud, how)
        self.cloud, _ = await start(self.folder, "cloud", *self.cloud_arguments)
        return code


@asynccontextmanager
async def network(
    folder: Path, num_edges: int, *, cloud_step_s: float, edge_step_s: float, **settings: Any
) -> AsyncIterator[Network]:
    """A running network; `settings` are CloudConfig's."""
    for name in ("cloud.key", "edge.key"):
        write_pair(folder / name, new_pair())
    AllowList(folder / "edges").add(read_pair(folder / "edge.key").public)
    config = CloudConfig(
        engine=EngineConfig(model="author", max_num_seqs=64),
        link=LinkConfig(
            address="tcp://127.0.0.1:0",
            heartbeat_s=BEAT_S,
            link_key=str(folder / "cloud.key"),
            edges_file=str(folder / "edges"),
        ),
        **{"port": 0, "log_level": "warning", **settings},
    )
    cloud, line = await start(folder, "cloud", "cloud", config.model_dump_json(), str(cloud_step_s))
    url, address = line.split()
    port, link_port = int(url.rpartition(":")[2]), int(address.rpartition(":")[2])
    link = config.link.model_copy(update={"address": address})
    again = config.model_copy(update={"port": port, "link": link})
    arguments = ("cloud", again.model_dump_json(), str(cloud_step_s))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        net = Network(folder, cloud, arguments, client, url, link_port)
        try:
            for index in range(num_edges):
                await _add_edge(net, f"edge-{index}", edge_step_s)
            await net.wait_for_edges()
            yield net
        finally:
            for edge in net.edges.values():
                await end(edge.process)
                await edge.wire.close()
            await end(net.cloud)


async def _add_edge(net: Network, name: str, step_s: float) -> None:
    wire = BadWire("127.0.0.1", net.link_port)
    await wire.start()
    config = EdgeConfig(
        engines=(EngineConfig(model="author", max_num_seqs=16),),
        name=name,
        link=LinkConfig(
            address=f"tcp://127.0.0.1:{wire.port}",
            heartbeat_s=BEAT_S,
            link_key=str(net.folder / "edge.key"),
            cloud_key=read_pair(net.folder / "cloud.key").public.hex(),
            connect_timeout_s=60.0,
        ),
        shutdown_timeout_s=2.0,
        log_level="warning",
    )
    arguments = ("edge", config.model_dump_json(), str(step_s))
    process, _ = await start(net.folder, name, *arguments)
    net.edges[name] = Edge(name, wire, process, arguments)
