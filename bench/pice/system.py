"""The system under test: one picert-cloud and its edges as real processes, each on its own cores.

A cell of the benchmark gets a fresh system, so that no cache, profile or forecast of one mode
serves another. It ends with its `async with` block, and a process that dies ends the cell.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pice.link import Relay
from pice.modes import flags_of
from picert.client import ProgressiveClient
from picert.commands.processes import Children, until_told
from picert.errors import PicertError, Unavailable
from picert.messages import Done, SamplingParams, TextDelta
from picert.simulate.load import Answered
from picert.simulate.questions import Question

_START_S = 180.0  # for a server to load its model
_POLL_S = 0.05
_READY = re.compile(r"picert-cloud ready: (?P<url>\S+) edges: (?P<edges>\S+)")
_WARM_QUESTION = "What makes a good start of a day?"
_WARM_TOKENS = 24
T = TypeVar("T")
Edges = tuple[tuple[str, ...], ...]  # the models of each


@dataclass(frozen=True, slots=True)
class Machines:
    """What the system is made of. An edge is a process; it may hold several models."""

    cloud_model: str
    edges: Edges
    cpus_cloud: frozenset[int]
    cpus_edge: frozenset[int]  # of all edges
    max_tokens: int  # of an answer
    deadline_s: float  # of an answer
    link_delay_s: float  # each way
    cloud_flags: tuple[str, ...] = ()
    edge_flags: tuple[str, ...] = ()
    profile: Path | None = None  # of `picert profile`, for all; None leaves the priors

    def row(self) -> dict[str, object]:
        """As it stands in a line of JSON."""
        return {
            "cloud_model": self.cloud_model,
            "cpus_cloud": sorted(self.cpus_cloud),
            "cpus_edge": sorted(self.cpus_edge),
            "max_tokens": self.max_tokens,
            "link_rtt_ms": round(2000 * self.link_delay_s, 3),
            "speeds": "prior" if self.profile is None else "profile",
        }

    @property
    def shared_flags(self) -> tuple[str, ...]:
        """Of cloud and edges alike."""
        return () if self.profile is None else ("--profile", str(self.profile))


class System:
    """A running system, asked over HTTP."""

    def __init__(self, client: ProgressiveClient, machines: Machines, relay: Relay) -> None:
        self._client = client
        self._machines = machines
        self._relay = relay

    @property
    def num_link_bytes(self) -> int:
        """That cloud and edges have sent each other so far."""
        return self._relay.bytes_to_cloud + self._relay.bytes_to_edges

    async def ask(self, question: Question) -> Answered:
        """One answer as its client sees it. A failure is an answer with an error."""
        began = time.monotonic()
        sampling = SamplingParams(temperature=0.0, max_tokens=self._machines.max_tokens)
        first_s: float | None = None
        text: list[str] = []
        done: Done | None = None
        error: str | None = None
        try:
            events = self._client.stream(
                question.question,
                sampling=sampling,
                deadline_s=self._machines.deadline_s,
            )
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, TextDelta):
                        if first_s is None and event.text.strip():
                            first_s = time.monotonic() - began
                        text.append(event.text)
                    elif isinstance(event, Done):
                        done = event
        except PicertError as failure:
            error = " ".join(failure.message.split())
        took = time.monotonic() - began
        return Answered(question, "".join(text), took, first_s, done, error)

    async def warm_up(self) -> float:
        """Seconds per token of one direct answer alone, after the processes have touched all their
        weights."""
        sampling = SamplingParams(temperature=0.0, max_tokens=_WARM_TOKENS)
        if self._machines.edges:
            await self._client.ask(_WARM_QUESTION, route="edge_only", sampling=sampling)
        await self._client.ask(_WARM_QUESTION, route="direct", sampling=sampling)
        began = time.monotonic()
        answer = await self._client.ask(_WARM_QUESTION, route="direct", sampling=sampling)
        return (time.monotonic() - began) / max(1, answer.done.completion_tokens)


def run_until_told(work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, which may not be None. SIGTERM and SIGHUP end it, its processes with
    it, and then raise SystemExit; SIGINT does the same with KeyboardInterrupt.
    """
    result = asyncio.run(until_told(work))
    if result is None:
        raise SystemExit(128 + signal.SIGTERM)
    return result


@contextmanager
def told_by_signals() -> Iterator[None]:
    """Where asyncio does not run, SIGTERM and SIGHUP raise SystemExit as they do above."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@asynccontextmanager
async def running(machines: Machines, mode: str, folder: Path) -> AsyncIterator[System]:
    """Start all processes, and end them. Raises PicertError if one does not start, or dies while
    the block runs: then the block is cancelled."""
    async with Children(folder) as children:
        flags = ["--model", machines.cloud_model, "--port", "0"]
        flags += ["--edge-bind", "tcp://127.0.0.1:0"]
        flags += ["--threads", str(len(machines.cpus_cloud))]
        with on_cpus(machines.cpus_cloud):
            cloud = await children.start(
                "cloud",
                "cloud_main",
                [*flags, *machines.shared_flags, *machines.cloud_flags, *flags_of(mode)],
            )
        match = _READY.fullmatch(await cloud.ready_line(_START_S))
        if match is None:
            raise PicertError("the cloud's ready line is not the one that was expected")
        async with (
            Relay(match["edges"], machines.link_delay_s) as relay,
            ProgressiveClient(match["url"]) as client,
        ):
            await _start_edges(children, machines, relay.address)
            await _edges_are_ready(client, len(machines.edges))
            async with _guarded(children):
                yield System(client, machines, relay)


async def _start_edges(children: Children, machines: Machines, address: str) -> None:
    edges = []
    for number, models in enumerate(machines.edges, start=1):
        name = f"edge-{number}"
        flags = [part for model in models for part in ("--model", model)]
        flags += ["--cloud", address, "--name", name]
        flags += ["--threads", str(len(machines.cpus_edge))]
        flags += [*machines.shared_flags, *machines.edge_flags]
        with on_cpus(machines.cpus_edge):
            edges.append(await children.start(name, "edge_main", flags))
    await asyncio.gather(*(edge.ready_line(_START_S) for edge in edges))


async def _edges_are_ready(client: ProgressiveClient, wanted: int) -> None:
    deadline = time.monotonic() + _START_S
    names: Sequence[str] = ()
    while time.monotonic() < deadline:
        with suppress(Unavailable):
            names = await client.ready_edges()
            if len(names) >= wanted:
                return
        await asyncio.sleep(_POLL_S)
    raise PicertError(f"after {_START_S:.0f} s the cloud has {len(names)} of {wanted} edges")


@asynccontextmanager
async def _guarded(children: Children) -> AsyncIterator[None]:
    """Cancel the block if a child ends, and say how it ended."""
    block = asyncio.current_task()
    assert block is not None
    watching = asyncio.create_task(children.first_death())
    watching.add_done_callback(lambda task: None if task.cancelled() else block.cancel())
    try:
        yield
    except asyncio.CancelledError:
        if watching.done() and not watching.cancelled():
            raise watching.result() from None
        raise
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@contextmanager
def on_cpus(cpus: frozenset[int]) -> Iterator[None]:
    """What is started in the block runs on these cores; so do all its threads."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
