"""What serving costs over the bare engine, and whether a server stands a crowd.

    python bench/bench_server.py --json
    python bench/bench_server.py --cases overhead --seconds 20
    python bench/bench_server.py --cases crowd --clients 2000 --seconds 60
    python bench/bench_server.py --cases restart

Without --model a tiny random one is made (its arithmetic is a fraction of a millisecond a token),
so that the server is measured. `overhead`: the same arrivals, first to an engine loop in this
process, then over HTTP to `picert-cloud` answering itself, then over HTTP and the link to
`picert-edge`; the difference of the percentiles is what each adds. `crowd`: so many clients at once
stream answers, and any of them that fails other than by 429 is an error; memory is read every
second. `restart`: the cloud is ended and started again while clients ask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from machine import environment
from raw_http import Connection, Reply

from picert.client import ProgressiveClient
from picert.commands.processes import Child, Children
from picert.config import EngineConfig
from picert.engine.engine import load_engine
from picert.engine.loop import EngineLoop
from picert.errors import PicertError
from picert.messages import ChatMessage, SamplingParams

CASES = ("overhead", "crowd", "restart")
READY = re.compile(r"picert-cloud ready: http://([\d.]+):(\d+) edges: (\S+)")
QUESTION = "What helps with stress?"
NUM_TOKENS = 16
IDLE_S = 3.0  # servers close connections on which nothing is asked
WARM_UP = 0.25  # of a crowd's time, before memory counts
MANY = str(1 << 14)
CROWD_FLAGS = (
    *("--max-num-requests", MANY, "--max-num-queued-reqs", MANY),
    *("--max-num-queued-tokens", "100000000", "--queue-timeout", "300", "--max-num-seqs", "128"),
)


@dataclass(frozen=True)
class Served:
    """A cloud and its edges, as processes."""

    host: str
    port: int
    cloud: Child
    children: Children
    model: str
    edge_address: str

    def body(self, route: str, num_tokens: int = NUM_TOKENS) -> dict[str, Any]:
        """A question whose answer has just so many tokens."""
        return {
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "picert": {"route": route},
        }

    async def wait_for_edges(self, wanted: int) -> None:
        """Until so many take jobs."""
        async with ProgressiveClient(f"http://{self.host}:{self.port}") as client:
            while True:
                try:
                    if len(await client.ready_edges()) == wanted:
                        return
                except PicertError:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.01)

    def rss_mib(self) -> float:
        """Resident memory of the cloud."""
        pages = Path(f"/proc/{self.cloud.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096 / 2**20


@asynccontextmanager
async def served(
    model: str, folder: Path, num_edges: int, flags: Sequence[str] = ()
) -> AsyncIterator[Served]:
    """Everything started, everything ended."""
    async with Children(folder) as children:
        given = ["--model", model, "--log-level", "warning", "--threads", "1"]
        cloud_flags = [*given, "--port", "0", "--edge-bind", "tcp://127.0.0.1:0", *flags]
        cloud = await children.start("cloud", "cloud_main", cloud_flags)
        found = READY.fullmatch(await cloud.ready_line(120))
        assert found is not None
        net = Served(found[1], int(found[2]), cloud, children, model, found[3])
        for index in range(num_edges):
            edge = ["--cloud", found[3], "--name", f"edge-{index}", *given]
            child = await children.start(f"edge-{index}", "edge_main", edge)
            await child.ready_line(120)
        await net.wait_for_edges(num_edges)
        yield net


# --- overhead -------------------------------------------------------------------------------------


async def arrivals(rate: float, seconds: float, ask: Callable[[], Awaitable[float]]) -> list[float]:
    """Ask at random moments, `rate` a second, whether or not earlier answers are there."""
    rng, clock = random.Random(0), asyncio.get_running_loop().time
    began, at, tasks = clock(), 0.0, []
    while (at := at + rng.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, began + at - clock()))
        tasks.append(asyncio.ensure_future(ask()))
    return [await task for task in tasks]


async def bare(model: str, rate: float, seconds: float) -> list[float]:
    """Seconds of each answer of an engine loop in this process."""
    loop = EngineLoop(load_engine(EngineConfig(model=model, threads=1, kv_tokens=16384)))
    loop.start()
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    asked = (ChatMessage("user", QUESTION),)

    async def ask() -> float:
        began = time.perf_counter()
        ids = loop.engine.tokenizer.encode_chat(asked)
        async with aclosing(loop.stream(f"{began}", ids, params)) as outputs:
            async for output in outputs:
                last = output
        assert last.num_completion_tokens == NUM_TOKENS
        return time.perf_counter() - began

    try:
        return await arrivals(rate, seconds, ask)
    finally:
        await asyncio.to_thread(loop.stop)
        loop.engine.close()


async def over_http(net: Served, route: str, rate: float, seconds: float) -> list[float]:
    """Seconds of each answer of the cloud, on connections that are kept."""
    clock = asyncio.get_running_loop().time
    idle: list[tuple[Connection, float]] = []

    async def ask() -> float:
        connection, left_at = idle.pop() if idle else (Connection(net.host, net.port), 0.0)
        if clock() - left_at > IDLE_S:
            connection = await Connection(net.host, net.port).__aenter__()
        reply = await connection.post(net.body(route))
        assert reply.status == 200, reply
        assert reply.is_whole, reply
        idle.append((connection, clock()))
        return reply.total_s

    try:
        return await arrivals(rate, seconds, ask)
    finally:
        for connection, _ in idle:
            await connection.__aexit__()


async def measure_overhead(args: argparse.Namespace, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """What HTTP and service add, and then what the link adds."""
    base = await bare(args.model, args.rate, args.seconds)
    yield {"case": "overhead", "over": "bare engine", "requests": len(base), **percentiles(base)}
    async with served(args.model, folder, 1) as net:
        for route, over in (("direct", "HTTP and service"), ("edge_only", "HTTP, service, link")):
            await over_http(net, route, args.rate, 2.0)  # warm
            seconds = await over_http(net, route, args.rate, args.seconds)
            added = {
                f"added_{name}": round(value - percentiles(base)[name], 3)
                for name, value in percentiles(seconds).items()
            }
            counted = {"requests": len(seconds), **percentiles(seconds), **added}
            yield {"case": "overhead", "over": over, **counted}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    at = {"p50_ms": 0.5, "p99_ms": 0.99}
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
        for name, share in at.items()
    }


# --- crowd ----------------------------------------------------------------------------------------


async def measure_crowd(args: argparse.Namespace, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Errors, memory and what is held at the end."""
    outcomes: Counter[str] = Counter()
    async with served(args.model, folder, 1, CROWD_FLAGS) as net:
        ends_at = asyncio.get_running_loop().time() + args.seconds
        clients = [
            asyncio.create_task(_client(net, ends_at, outcomes, random.Random(index)))
            for index in range(args.clients)
        ]
        memory = []
        while asyncio.get_running_loop().time() < ends_at:
            memory.append(net.rss_mib())
            await asyncio.sleep(1.0)
        await asyncio.gather(*clients)
        held = await _held(net)
    warm = memory[int(WARM_UP * len(memory)) :]
    yield {
        "case": "crowd",
        "clients": args.clients,
        "seconds": args.seconds,
        **{f"num_{name}": count for name, count in sorted(outcomes.items())},
        "rss_mib": round(warm[-1], 1),
        "rss_growth_percent": round(100 * (max(warm) / warm[0] - 1), 2),
        "held_at_end": held,
    }


async def _client(net: Served, ends_at: float, outcomes: Counter[str], rng: random.Random) -> None:
    """One of the crowd: asks again and again, on a connection of its own."""
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(rng.uniform(0.0, 2.0))  # not all in one instant
    while clock() < ends_at:
        try:
            async with Connection(net.host, net.port) as connection:
                while clock() < ends_at:
                    route = rng.choice(("direct", "direct", "edge_only"))
                    reply = await asyncio.wait_for(connection.post(net.body(route, 64)), 300)
                    outcomes[_outcome(reply)] += 1
                    if reply.status == 429:
                        await asyncio.sleep(rng.uniform(0.5, 1.5))
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            outcomes[f"error_{type(error).__name__}"] += 1


def _outcome(reply: Reply) -> str:
    if reply.status == 200:
        return "answers" if reply.is_whole else "error_cut"
    return "busy" if reply.status == 429 else f"error_{reply.status}"


async def _held(net: Served) -> dict[str, float]:
    """What the cloud still holds once nobody asks: nothing, if all is well."""
    async with ProgressiveClient(f"http://{net.host}:{net.port}") as client:
        text = (await client._http.get("/metrics")).text
        edges = (await client._http.get("/admin/edges")).json()["edges"]
    names = "num_requests_running|num_requests_waiting|kv_cache_usage_perc|dispatch_queue_depth"
    rows = re.findall(rf"^picert_({names})(?:{{.*}})? (\S+)$", text, re.M)
    held = {name: float(value) for name, value in rows if float(value)}
    return held | {edge["name"]: edge["in_flight"] for edge in edges if edge["in_flight"]}


# --- restart --------------------------------------------------------------------------------------


async def measure_restart(args: argparse.Namespace, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Seconds from the new cloud's readiness until its edges take jobs, under load."""
    async with served(args.model, folder, 3) as net:
        for number in range(args.restarts):
            crowd = [asyncio.create_task(_until_cut(net)) for _ in range(50)]
            await asyncio.sleep(1.0)
            await net.cloud.stop()
            again = ["--model", net.model, "--log-level", "warning", "--threads", "1"]
            place = ["--port", str(net.port), "--edge-bind", net.edge_address]
            name = f"cloud-{number + 2}"
            cloud = await net.children.start(name, "cloud_main", [*again, *place])
            await cloud.ready_line(120)
            began = time.monotonic()
            await asyncio.wait_for(net.wait_for_edges(3), 60)
            took_s = time.monotonic() - began
            await asyncio.gather(*crowd)
            net = Served(net.host, net.port, cloud, net.children, net.model, net.edge_address)
            yield {"case": "restart", "edges": 3, "back_s": round(took_s, 3)}


async def _until_cut(net: Served) -> None:
    """Ask until the connection or the cloud is gone."""
    try:
        async with Connection(net.host, net.port) as connection:
            while (await connection.post(net.body("direct"))).status == 200:
                pass
    except (OSError, asyncio.IncompleteReadError):
        return


# --- the command ----------------------------------------------------------------------------------

_MEASURES = {
    "overhead": measure_overhead,
    "crowd": measure_crowd,
    "restart": measure_restart,
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="GGUF file (default: a tiny random one is made)")
    parser.add_argument("--cases", default=",".join(CASES), help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="questions a second of overhead")
    parser.add_argument("--clients", type=int, default=2000, help="of crowd")
    parser.add_argument("--seconds", type=float, default=30.0, help="of overhead and crowd")
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    if unknown := {*args.cases.split(",")} - {*CASES}:
        parser.error(f"case {min(unknown)!r} is unknown: choose of {', '.join(CASES)}")
    return args


async def run(args: argparse.Namespace) -> None:
    """Measure case after case; each in processes of its own."""
    machine = environment()
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
            tiny = import_module("tiny_models")
            args.model = str(tiny.make_gguf(Path(folder), "llama", "Q8_0"))
        for case in args.cases.split(","):
            async for row in _MEASURES[case](args, Path(folder)):
                print(json.dumps({**row, **machine}) if args.json else _line(row), flush=True)


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in row.items())


if __name__ == "__main__":
    asyncio.run(run(parse()))
