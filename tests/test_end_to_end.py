"""The main job on real models: one cloud and two edges as real processes, asked over HTTP."""

import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from picert.client import ProgressiveClient
from picert.commands.processes import Child, Children
from picert.errors import PicertError
from picert.messages import AnswerEvent, Done, Progress, SamplingParams, TextDelta

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(240)]

CLOUD_MODEL = "qwen2.5-coder-0.5b-instruct"
EDGE_MODEL = "smollm2-135m-instruct"
QUESTION = "What are the most effective ways to deal with stress?"
START_S = 120.0
SHORT = SamplingParams(temperature=0.0, max_tokens=96)
LONG = SamplingParams(max_tokens=600)  # so that no point is cut
READY = re.compile(r"picert-cloud ready: (\S+) edges: (\S+)")


@dataclass
class Told:
    """What a client was told, in order."""

    events: list[AnswerEvent] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))

    @property
    def done(self) -> Done:
        assert [isinstance(e, Done) for e in self.events].count(True) == 1
        last = self.events[-1]
        assert isinstance(last, Done)
        return last


@dataclass(frozen=True)
class Network:
    """A running cloud with two edges, and a client."""

    client: ProgressiveClient
    cloud: Child
    edges: dict[str, Child]
    children: Children
    edge_address: str

    async def wait_for_edges(self, wanted: set[str]) -> None:
        deadline = time.monotonic() + START_S
        ready: set[str] | None = None
        while ready != wanted:
            assert time.monotonic() < deadline, f"the cloud has {ready}, wanted {wanted}"
            ready = set(await self.client.ready_edges())

    async def num_edge_failures(self) -> float:
        metrics = (await self.client._http.get("/metrics")).text
        (value,) = re.findall(r"^picert_edge_failures_total (\S+)$", metrics, re.M)
        return float(value)

    async def start_edge(self, name: str) -> None:
        flags = ["--model", EDGE_MODEL, "--cloud", self.edge_address, "--name", name]
        child = await self.children.start(name, "edge_main", [*flags, "--threads", "1"])
        await child.ready_line(START_S)
        self.edges[name] = child


@asynccontextmanager
async def network(folder: Path, *flags: str) -> AsyncIterator[Network]:
    async with Children(folder) as children:
        anywhere = ["--port", "0", "--edge-bind", "tcp://127.0.0.1:0"]
        cloud = await children.start(
            "cloud", "cloud_main", ["--model", CLOUD_MODEL, *anywhere, *flags]
        )
        match = READY.fullmatch(await cloud.ready_line(START_S))
        assert match is not None
        async with ProgressiveClient(match[1]) as client:
            net = Network(client, cloud, {}, children, match[2])
            for name in ("edge-1", "edge-2"):
                await net.start_edge(name)
            await net.wait_for_edges({"edge-1", "edge-2"})
            yield net


def kill(child: Child) -> None:
    os.kill(child.process.pid, signal.SIGKILL)


async def test_sketch_is_expanded_by_two_edges_into_one_answer(tmp_path: Path) -> None:
    # In turns and one text a segment: else both write each segment, and the same edge may win all.
    async with network(tmp_path, "--dispatch", "round_robin", "--no-ensemble") as net:
        sketching = net.client.stream(QUESTION, route="sketch", sampling=LONG)
        told = Told([e async for e in sketching])
        again = Told([e async for e in net.client.stream(QUESTION, route="direct")])
    done = told.done
    assert done.route == "sketch"
    assert len(done.segments) >= 3
    assert {segment.edge for segment in done.segments} >= {"edge-1", "edge-2"}
    positions = [told.text.index(s.expansion.strip()) for s in done.segments if s.expansion]
    assert positions == sorted(positions)
    assert done.usage.edge_completion_tokens > done.usage.cloud_completion_tokens
    assert again.done.route == "direct"
    assert again.done.usage.cloud_completion_tokens > done.usage.cloud_completion_tokens


async def test_answer_survives_the_kill_of_an_edge_and_the_edge_can_come_back(
    tmp_path: Path,
) -> None:
    # One text a segment: else the other edge may win what the killed one had before it is missed.
    async with network(tmp_path, "--no-ensemble") as net:
        told, killed = Told(), ""
        asked = {"route": "sketch", "progress": True, "sampling": LONG}
        async for event in net.client.stream(QUESTION, **asked):
            told.events.append(event)
            if isinstance(event, Progress) and event.stage == "expand" and not killed:
                killed = event.edge or ""
                kill(net.edges[killed])
        assert killed
        assert net.cloud.process.returncode is None
        assert await net.num_edge_failures() >= 1  # the edge, and each of its jobs that failed
        done = told.done
        assert (done.route, done.finish_reason) == ("sketch", "stop")
        assert all(segment.expansion for segment in done.segments)
        for segment in done.segments:
            assert told.text.count(segment.expansion.strip()) == 1
        await net.edges[killed].process.wait()
        await net.start_edge(killed)
        await net.wait_for_edges({"edge-1", "edge-2"})


async def test_without_edges_the_answer_is_direct(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        for child in net.edges.values():
            kill(child)
        await net.wait_for_edges(set())
        told = Told([e async for e in net.client.stream(QUESTION, sampling=SHORT)])
    assert told.done.route == "direct"
    assert any("edge" in reason for reason in told.done.reasons)
    assert told.text


async def test_cloud_finishes_an_answer_before_it_stops(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        events = net.client.stream(QUESTION, route="direct", sampling=SHORT)
        told = Told([await anext(events)])
        net.cloud.process.send_signal(signal.SIGTERM)
        told.events += [event async for event in events]
        assert told.done.finish_reason == "length"
        assert await net.cloud.process.wait() == 0


async def test_edge_that_finds_no_cloud_says_so_and_ends(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        nowhere = ["--cloud", "tcp://127.0.0.1:9"]
        child = await children.start("edge", "edge_main", ["--model", EDGE_MODEL, *nowhere])
        with pytest.raises(PicertError, match=r"127\.0\.0\.1:9"):
            await child.ready_line(START_S)
        assert child.process.returncode == 1
