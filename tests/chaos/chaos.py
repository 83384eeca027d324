"""Chaos: a cloud and three edges as processes over encrypted links, clients that ask and leave, and
everything that can go wrong going wrong around them, for as long as wanted.

    python tests/chaos/chaos.py --seconds 1800

What must hold: every question that was accepted ends in exactly one terminal event; no part of an
answer is lost, told twice or out of order; nothing is held at the end; the cloud never restarts;
and the quiet system then gives the answers that are known beforehand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import zmq
import zmq.asyncio

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from author import points, question, sentence, whole
from author_network import Network, network
from prometheus_client.parser import text_string_to_metric_families

NUM_EDGES, NUM_CLIENTS = 3, 8
LEAVES = 0.15  # of the clients, amid their answer
ROUTES = ("direct", "sketch", "sketch", "edge_only", "auto")
CHAT = "/v1/chat/completions"
ANSWER_S = 60.0  # no answer may take longer, whatever happens to it


@dataclass
class Report:
    """What happened; `faults` is what must be empty."""

    outcomes: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    num_frames_thrown: int = 0
    longest_s: float = 0.0

    def __str__(self) -> str:
        rows = {
            "answers": dict(self.outcomes),
            "routes": dict(self.routes),
            "deeds": dict(self.deeds),
            "frames_thrown": self.num_frames_thrown,
            "longest_s": round(self.longest_s, 1),
            "faults": self.faults,
        }
        return json.dumps(rows, indent=1)


class Client:
    """Asks one question after the other, and checks what it is told."""

    def __init__(self, net: Network, rng: random.Random, report: Report) -> None:
        self._net = net
        self._rng = rng
        self._report = report

    async def ask_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            number, route = self._rng.randrange(1000), self._rng.choice(ROUTES)
            try:
                await asyncio.wait_for(self._ask(number, route), ANSWER_S)
            except asyncio.TimeoutError:
                self._fault(number, route, f"no end after {ANSWER_S} s")
            except httpx.HTTPError as error:
                self._fault(number, route, f"the connection broke: {error!r}")

    async def _ask(self, number: int, route: str) -> None:
        leaves_after = self._rng.randrange(1, 30) if self._rng.random() < LEAVES else None
        body = {
            "messages": [{"role": "user", "content": question(number)}],
            "stream": True,
            "max_tokens": 2000,
            "picert": {"route": route},
        }
        began = asyncio.get_running_loop().time()
        lines: list[str] = []
        async with self._net.client.stream("POST", CHAT, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                self._report.outcomes[f"refused {response.status_code}"] += 1
                if response.status_code != 429:
                    self._fault(number, route, f"status {response.status_code}: {response.text}")
                return
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    lines.append(line.removeprefix("data: "))
                    if len(lines) == leaves_after:
                        self._report.outcomes["client left"] += 1
                        return
        took_s = asyncio.get_running_loop().time() - began
        self._report.longest_s = max(self._report.longest_s, took_s)
        self._check(number, route, lines)

    def _check(self, number: int, route: str, lines: list[str]) -> None:
        """Exactly one end, and before it the whole answer in order."""
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
        errors = [chunk["error"]["code"] for chunk in chunks if "error" in chunk]
        ends = [c for c in chunks if c.get("choices") and c["choices"][0]["finish_reason"]]
        if len(errors) + len(ends) != 1 or (ends and lines[-1] != "[DONE]"):
            self._fault(number, route, f"{len(ends)} ends, {len(errors)} errors: {lines[-1]}")
        elif errors:
            self._report.outcomes[f"error {errors[0]}"] += 1
            self._fault(number, route, f"an error, though the cloud is there: {errors[0]}")
        else:
            self._report.outcomes["answered"] += 1
            deltas = [c["choices"][0]["delta"] for c in chunks if c.get("choices")]
            text = "".join(delta.get("content") or "" for delta in deltas)
            told = ends[0]["picert"]
            self._report.routes[told["route"]] += 1
            is_sketch = told["route"] == "sketch"
            problem = wrong(number, text, len(told["segments"]) if is_sketch else 0)
            if problem:
                self._fault(number, route, f"{problem}: {told['reasons']}")

    def _fault(self, number: int, route: str, what: str) -> None:
        self._report.faults.append(f"question {number} ({route}): {what}")


def wrong(number: int, text: str, num_points: int) -> str | None:
    """What is wrong with an answer of so many points (0: whole), None if nothing."""
    asked = question(number)
    wanted = whole(asked)
    if num_points:
        parts = [f"**{point}**: {sentence(point)}" for point in points(asked)[:num_points]]
        wanted = "\n\n".join(f"{n}. {part}" for n, part in enumerate(parts, start=1))
    if text == wanted:
        return None
    pairs = zip(text, wanted, strict=False)
    common = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(text), len(wanted)))
    return f"from character {common} on {text[common:][:80]!r}, not {wanted[common:][:80]!r}"


class Vandal:
    """Does one bad deed after the other, and makes most of it good again."""

    def __init__(self, net: Network, rng: random.Random, report: Report) -> None:
        self._net = net
        self._rng = rng
        self._report = report

    async def rage_until(self, stop: asyncio.Event) -> None:
        deeds = (self._kill, self._stop, self._end, self._cut, self._slow, self._stall)
        while not stop.is_set():
            deed = self._rng.choice(deeds)
            self._report.deeds[deed.__name__.strip("_")] += 1
            await deed(self._rng.choice(list(self._net.edges)))
            await self._pause(stop)

    async def throw_until(self, stop: asyncio.Event) -> None:
        """Frames of a peer that nobody knows, with a key of its own or with none."""
        context = zmq.asyncio.Context()
        try:
            while not stop.is_set():
                socket = context.socket(zmq.DEALER)
                socket.setsockopt(zmq.LINGER, 0)
                if self._rng.random() < 0.5:
                    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
                    socket.curve_serverkey = zmq.curve_keypair()[0]
                socket.connect(f"tcp://127.0.0.1:{self._net.link_port}")
                for _ in range(20):
                    sizes = [self._rng.randrange(60) for _ in range(self._rng.randrange(1, 4))]
                    with suppress(zmq.Again):
                        frames = [self._rng.randbytes(size) for size in sizes]
                        await socket.send_multipart(frames, flags=zmq.DONTWAIT)
                        self._report.num_frames_thrown += len(frames)
                await self._throw_bytes()
                await self._pause(stop)
                socket.close(linger=0)
        finally:
            context.term()

    async def _throw_bytes(self) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._net.link_port)
            writer.write(self._rng.randbytes(self._rng.randrange(1, 500)))
            await writer.drain()
            writer.close()

    async def _kill(self, name: str) -> None:
        await self._net.restart_edge(name, signal.SIGKILL)

    async def _end(self, name: str) -> None:
        await self._net.restart_edge(name, signal.SIGTERM)

    async def _stop(self, name: str) -> None:
        process = self._net.edges[name].process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.2, 4.0))
        process.send_signal(signal.SIGCONT)

    async def _cut(self, name: str) -> None:
        self._net.edges[name].wire.cut()

    async def _slow(self, name: str) -> None:
        wire = self._net.edges[name].wire
        wire.delay_s = self._rng.uniform(0.02, 0.3)
        await asyncio.sleep(self._rng.uniform(0.5, 2.0))
        wire.heal()

    async def _stall(self, name: str) -> None:
        wire = self._net.edges[name].wire
        wire.stall()
        await asyncio.sleep(self._rng.uniform(0.2, 4.0))
        wire.heal()

    async def _pause(self, stop: asyncio.Event) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), self._rng.uniform(0.1, 1.0))


async def rage(net: Network, seconds: float, seed: int) -> Report:
    """Chaos for `seconds`, then quiet, then the questions whose answers are known."""
    report, stop, rng = Report(), asyncio.Event(), random.Random(seed)
    pid = net.cloud.pid
    seeds = [random.Random(rng.random()) for _ in range(NUM_CLIENTS + 2)]
    vandals = [Vandal(net, seed_of, report) for seed_of in seeds[:2]]
    work = [
        vandals[0].rage_until(stop),
        vandals[1].throw_until(stop),
        *(Client(net, seed_of, report).ask_until(stop) for seed_of in seeds[2:]),
    ]
    tasks = [asyncio.create_task(part) for part in work]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    stop.set()
    await asyncio.gather(*tasks)
    await net.wait_for_edges()
    if net.cloud.returncode is not None or net.cloud.pid != pid:
        report.faults.append("the cloud ended")
    unseen = {"direct", "sketch", "edge_only"} - report.routes.keys()
    report.faults += [f"no answer came by route {route}" for route in sorted(unseen)]
    await _check_tables(net, report)
    await _check_quiet(net, report)
    return report


async def _check_tables(net: Network, report: Report) -> None:
    """Nobody asks: nothing may be held."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    wanted = {f"picert_{name}" for name in (*names, "dispatch_queue_depth")}
    held: dict[str, float] = {}
    for _ in range(100):
        text = (await net.client.get("/metrics")).text
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
        held = {s.name: s.value for s in samples if s.name in wanted and s.value}
        held |= {e["name"]: e["in_flight"] for e in await net.report() if e["in_flight"]}
        if not held:
            return
        await asyncio.sleep(0.1)
    report.faults.append(f"held at the end: {held}")


async def _check_quiet(net: Network, report: Report) -> None:
    """The same questions as ever give the answers that are known."""
    for number in range(5):
        body = {
            "messages": [{"role": "user", "content": question(number)}],
            "seed": number,
            "max_tokens": 2000,
            "picert": {"route": "direct"},
        }
        answer = (await net.client.post(CHAT, json=body)).json()
        if answer["choices"][0]["message"]["content"] != whole(question(number)):
            report.faults.append(f"question {number} has another answer on the quiet system")


async def main(seconds: float, seed: int) -> int:
    """Print the report; 0 if there was no fault."""
    with tempfile.TemporaryDirectory() as folder:
        async with network(Path(folder), NUM_EDGES, cloud_step_s=0.004, edge_step_s=0.01) as net:
            report = await rage(net, seconds, seed)
    sys.stdout.write(f"{report}\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = parser.parse_args()
    sys.stdout.write(f"seed {given.seed}\n")
    sys.exit(asyncio.run(main(given.seconds, given.seed)))
