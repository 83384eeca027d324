"""ModelChange over the real link: a cloud asks, an edge loads, and no text is cut by it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from eventually import eventually
from scripted import ScriptedLoop

from picert.cloud.edges import EdgePool
from picert.config import LinkConfig, PolicyConfig
from picert.edge.change import ModelChange
from picert.edge.worker import EdgeWorker
from picert.errors import EdgeLost, Unavailable
from picert.messages import (
    AnswerJob,
    Cancel,
    ExpandJob,
    Expansion,
    Hello,
    LoadModel,
    ModelInfo,
    Segment,
    SpareModel,
    SpeedCurve,
)
from picert.pice.prompts import load_prompts
from picert.transport.events import LinkLost, Load
from picert.transport.link import PeerLink, ServerLink

SECONDS = {"large": 0.5, "small": 0.05}  # of a token


class Models:
    """Stands for HeldModels: one at a time, and a test says how a load ends."""

    def __init__(self) -> None:
        self.loops: dict[str, Any] = {"large": self._loop()}
        self.has_room = False
        self.error: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.asked: list[str] = []
        self.num_running_then: int | None = None  # texts when the old model went
        self.worker: EdgeWorker | None = None

    def _loop(self) -> ScriptedLoop:
        loop = ScriptedLoop(lambda part: ["One", " two", " three."])
        loop.permits = asyncio.Semaphore(1000)
        return loop

    def in_the_way(self, name: str) -> list[str]:
        return [] if self.has_room else [*self.loops]

    async def load(self, name: str) -> None:
        self.asked.append(name)
        assert self.worker is not None
        self.num_running_then = self.worker.num_running
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        if not self.has_room:
            self.loops.clear()
        self.loops[name] = self._loop()

    def hello(self) -> Hello:
        sizes = {"large": 1000, "small": 100}
        info = {name: ModelInfo(name, name, size, 4096) for name, size in sizes.items()}
        return Hello(
            name="e",
            picert_version="0",
            models=tuple(info[name] for name in self.loops),
            slots=2 * len(self.loops),
            kv_tokens=100_000,
            curves=tuple(
                SpeedCurve(model=m, prefill_s_per_token=s / 20, decode_s_per_token={1: s})
                for m, s in SECONDS.items()
            ),
            spares=tuple(
                SpareModel(info[name], 10**6, 0.01) for name in info if name not in self.loops
            ),
        )


@asynccontextmanager
async def running(**policy: Any) -> AsyncIterator[SimpleNamespace]:
    """A pool and an edge that holds `large` and could load `small`."""
    link_config = {"heartbeat_s": 0.05}
    server = ServerLink(LinkConfig(address="tcp://127.0.0.1:0", **link_config))
    await server.start()
    fields = {"switch_slack_s": 30.0, "switch_dwell_s": 600.0, "grouping": False, **policy}
    pool = EdgePool(server, PolicyConfig(**fields))
    serving = asyncio.create_task(pool.serve())
    models = Models()
    link = PeerLink(
        LinkConfig(address=server.address, **link_config), models.hello(), lambda: Load(0, 0, 0.0)
    )
    worker = models.worker = EdgeWorker(models.loops, load_prompts(), link)
    change = ModelChange(models, worker, link, finish_s=10.0)  # type: ignore[arg-type]

    async def follow() -> None:
        async for event in link.events():
            if isinstance(event, LinkLost):
                await worker.drain(0.0)
            elif isinstance(event, LoadModel):
                change.begin(event.model)
            elif isinstance(event, ExpandJob | AnswerJob | Cancel):
                await worker.take(event)

    await link.start()
    following = asyncio.create_task(follow())
    await eventually(lambda: pool.load(0).num_edges == 1)
    try:
        yield SimpleNamespace(
            pool=pool, server=server, models=models, link=link, worker=worker, change=change
        )
    finally:
        models.may_end.set()
        await change.wait()
        await worker.drain(0.0)
        await link.close()
        await following
        await server.close()
        await serving
    pool.self_check()
    assert pool.num_open == 0


def job(number: int) -> ExpandJob:
    return ExpandJob(
        request_id=f"r{number}",
        attempt=0,
        question="q",
        outline=("a",),
        segments=(Segment(0, "a"),),
        max_tokens=40,
        deadline_s=30.0,
    )


async def written(pool: EdgePool, number: int) -> str:
    """The model that wrote a job's text."""
    async with pool.run(job(number)) as assignment:
        pieces = [piece async for piece in assignment]
    assert isinstance(pieces[-1], Expansion)
    return pieces[-1].model


async def burst(parts: SimpleNamespace, until: Callable[[], bool]) -> list[asyncio.Task[str]]:
    """More jobs than the large model is done with in time; its texts stand still from here on."""
    for loop in parts.models.loops.values():
        loop.permits = asyncio.Semaphore(0)
    jobs = [asyncio.create_task(written(parts.pool, number)) for number in range(12)]
    await eventually(until)
    return jobs


async def test_texts_that_run_end_with_their_model_and_those_that_wait_get_the_new_one() -> None:
    async with running() as parts:
        jobs = await burst(parts, lambda: parts.worker.num_running == 2)
        await eventually(lambda: parts.server.peers["e"].is_draining)
        assert parts.models.asked == []
        old = parts.models.loops["large"]
        for _ in range(100):
            old.permits.release()
        models = await asyncio.gather(*jobs)
        assert parts.models.num_running_then == 0
        assert models == ["large"] * 2 + ["small"] * 10
        assert parts.pool.roster.switches == {"down": 1}
        assert parts.pool.roster.report()[0]["models"] == ["small"]


async def test_where_there_is_room_the_old_model_writes_until_the_new_one_is_there() -> None:
    async with running() as parts:
        parts.models.has_room = True
        parts.models.may_end.clear()
        jobs = await burst(parts, lambda: parts.models.asked == ["small"])
        assert parts.models.num_running_then == 2
        assert not parts.server.peers["e"].is_draining
        parts.models.may_end.set()
        await eventually(lambda: parts.server.peers["e"].is_draining)
        for _ in range(100):
            parts.models.loops["large"].permits.release()
        assert await asyncio.gather(*jobs) == ["large"] * 2 + ["small"] * 10
        assert parts.pool.roster.report()[0]["models"] == ["large", "small"]


async def test_a_load_that_fails_is_told_and_the_edge_goes_on_with_what_it_has(
    caplog, monkeypatch
) -> None:
    monkeypatch.setattr(logging.getLogger("picert"), "propagate", True)
    caplog.set_level(logging.INFO, logger="picert")
    async with running() as parts:
        parts.models.error = Unavailable("no memory is left")
        jobs = await burst(parts, lambda: parts.worker.num_running == 2)
        await eventually(lambda: parts.server.peers["e"].is_draining)
        for _ in range(100):
            parts.models.loops["large"].permits.release()
        assert set(await asyncio.gather(*jobs)) == {"large"}
        assert parts.models.asked == ["small"]  # and not again within the dwell
        assert "edge e could not load a model: small: no memory is left" in caplog.text


async def test_an_edge_that_holds_no_model_any_more_leaves() -> None:
    async with running() as parts:
        parts.models.error = Unavailable("no memory is left")
        parts.models.loops.clear()
        parts.change.begin("small")
        await eventually(lambda: parts.pool.load(0).num_edges == 0)
        await eventually(lambda: not parts.link.is_linked)


async def test_a_load_that_fails_beside_texts_cuts_none_of_them() -> None:
    async with running() as parts:
        parts.models.has_room = True
        parts.models.error = Unavailable("no memory is left")
        jobs = await burst(parts, lambda: parts.models.asked == ["small"])
        await eventually(lambda: parts.server.peers["e"].is_draining)
        assert parts.worker.num_running == 2
        for _ in range(100):
            parts.models.loops["large"].permits.release()
        assert set(await asyncio.gather(*jobs)) == {"large"}
        assert parts.pool.num_lost == 0


async def test_texts_that_do_not_end_keep_their_model_from_going(caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("picert"), "propagate", True)
    caplog.set_level(logging.INFO, logger="picert")
    async with running() as parts:
        parts.change._finish_s = 0.05
        jobs = await burst(parts, lambda: parts.worker.num_running == 2)
        await eventually(lambda: "still being written" in caplog.text)
        await eventually(lambda: not parts.server.peers["e"].is_draining)
        assert (parts.models.asked, [*parts.models.loops]) == ([], ["large"])
        for _ in range(1000):
            parts.models.loops["large"].permits.release()
        ended = await asyncio.gather(*jobs, return_exceptions=True)
        assert sum(isinstance(end, EdgeLost) for end in ended) == 2  # these go to another edge
        assert ended.count("large") == 10


async def test_an_edge_that_is_lost_while_it_loads_comes_back_paused() -> None:
    async with running() as parts:
        parts.models.may_end.clear()
        jobs = await burst(parts, lambda: parts.worker.num_running == 2)
        for _ in range(100):
            parts.models.loops["large"].permits.release()
        await eventually(lambda: parts.models.asked == ["small"])
        entry = parts.server._registry.of_name("e")
        await parts.server._leave(entry, "its connection is gone")  # the cloud forgets the edge
        await eventually(lambda: parts.link.is_linked and "e" in parts.server.peers)
        await eventually(lambda: parts.server.peers["e"].is_draining)
        parts.models.may_end.set()
        await eventually(lambda: not parts.server.peers["e"].is_draining)
        assert await written(parts.pool, 99) == "small"
        for task in jobs:
            task.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
