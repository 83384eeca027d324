"""EdgePool with an edge that holds two models: which one its jobs name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
from scripted import ScriptedLink, expansion, settle

from picert.cloud.edges import EdgePool
from picert.config import PolicyConfig
from picert.errors import EdgeLost
from picert.messages import (
    ExpandJob,
    Hello,
    LoadModel,
    ModelInfo,
    Segment,
    SpareModel,
    SpeedCurve,
)
from picert.transport.events import (
    PeerChanged,
    PeerDraining,
    PeerJoined,
    PeerLeft,
    PeerMessage,
)

# Its large model needs ten times as long as the small one; each has two places.
SECONDS = {"large": 0.5, "small": 0.05}
HELLO = Hello(
    name="e",
    picert_version="0",
    models=(ModelInfo("large", "l", 1000, 4096), ModelInfo("small", "s", 100, 4096)),
    slots=4,
    kv_tokens=100_000,
    curves=tuple(
        SpeedCurve(model=model, prefill_s_per_token=s / 20, decode_s_per_token={1: s})
        for model, s in SECONDS.items()
    ),
)


def job(index: int) -> ExpandJob:
    return ExpandJob(
        request_id="r",
        attempt=0,
        question="q",
        outline=(),
        segments=(Segment(index, "a"),),
        max_tokens=40,
        deadline_s=10.0,
    )


SPARE_LARGE = SpareModel(HELLO.models[0], 10**7, 0.5)


@asynccontextmanager
async def pool_with(**policy: object) -> AsyncIterator[tuple[EdgePool, ScriptedLink]]:
    link = ScriptedLink()
    fields = {"switch_slack_s": 60.0, "switch_dwell_s": 0.0, "grouping": False, **policy}
    pool = EdgePool(link, PolicyConfig(**fields), lambda: 0.0)  # type: ignore[arg-type]
    serving = asyncio.create_task(pool.serve())
    link.happen(PeerJoined("e", HELLO))
    await settle()
    yield pool, link
    pool.self_check()
    link.happen(None)
    await serving


def models_sent(link: ScriptedLink) -> list[str | None]:
    return [m.model for _, m in link.sent if isinstance(m, ExpandJob)]


async def test_the_large_model_runs_until_it_would_be_late_and_again_when_all_is_done() -> None:
    async with pool_with() as (pool, link):
        async with AsyncExitStack() as waiting:
            async with pool.run(job(0)), pool.run(job(1)):
                late = [await waiting.enter_async_context(pool.run(job(n))) for n in range(2, 9)]
                assert {assignment.edge for assignment in late} == {None}
                assert models_sent(link) == ["large", "large"]
                assert pool.roster.switches == {"down": 1}
            assert set(models_sent(link)[2:]) == {"small"}
        async with pool.run(job(9)) as alone:
            assert alone.model == "large"
        assert pool.roster.switches == {"down": 1, "up": 1}


SPARE = msgspec.structs.replace(
    HELLO,
    models=HELLO.models[:1],
    slots=2,
    spares=(SpareModel(HELLO.models[1], 10**6, 0.5),),
)


@asynccontextmanager
async def pool_with_spare(**policy: object) -> AsyncIterator[tuple[EdgePool, ScriptedLink]]:
    """An edge that holds the large model and could load the small one."""
    async with pool_with(**policy) as (pool, link):
        link.happen(PeerChanged("e", SPARE))
        await settle()
        yield pool, link


def loads_asked(link: ScriptedLink) -> list[str]:
    return [message.model for _, message in link.sent if isinstance(message, LoadModel)]


async def test_a_spare_model_is_loaded_once_and_run_when_it_is_there() -> None:
    async with pool_with_spare(switch_dwell_s=5.0) as (pool, link), AsyncExitStack() as waiting:
        async with pool.run(job(0)), pool.run(job(1)):
            for n in range(2, 9):
                await waiting.enter_async_context(pool.run(job(n)))
            assert loads_asked(link) == ["small"]
            assert pool.roster.report()[0]["loading"] == "small"
            assert models_sent(link) == ["large", "large"]
            link.happen(PeerDraining("e", "it changes to small"))
            await settle()
        # both have ended; what waits is kept for the model that comes
        assert models_sent(link) == ["large", "large"]
        both = msgspec.structs.replace(HELLO, models=HELLO.models[1:], slots=2)
        link.happen(PeerChanged("e", msgspec.structs.replace(both, spares=(SPARE_LARGE,))))
        await settle()
        assert models_sent(link)[2:] == ["small", "small"]
        assert pool.roster.switches == {"down": 1}
        assert loads_asked(link) == ["small"]


async def test_what_texts_taught_of_a_model_holds_when_the_edge_changes_its_models() -> None:
    async with pool_with_spare() as (pool, link):
        async with pool.run(job(0)) as assignment:
            told = msgspec.structs.replace(
                expansion(), model="large", completion_tokens=8, seconds=80.0
            )
            link.happen(PeerMessage("e", told))
            _ = [piece async for piece in assignment]
        learned = pool.speed_of("e")
        link.happen(PeerChanged("e", HELLO))
        await settle()
        assert pool.speed_of("e") is learned


async def test_seconds_of_loading_count_in_the_prediction() -> None:
    slow = msgspec.structs.replace(SPARE, spares=(SpareModel(HELLO.models[1], 10**6, 3600.0),))
    async with pool_with() as (pool, link), AsyncExitStack() as waiting:
        link.happen(PeerChanged("e", slow))
        await settle()
        for n in range(9):
            await waiting.enter_async_context(pool.run(job(n)))
        assert loads_asked(link) == []  # the held one is done sooner than the other is loaded


async def test_jobs_that_wait_end_when_the_edge_leaves_while_it_loads() -> None:
    async with pool_with_spare() as (pool, link), AsyncExitStack() as waiting:
        jobs = [await waiting.enter_async_context(pool.run(job(n))) for n in range(9)]
        assert loads_asked(link) == ["small"]
        link.happen(PeerLeft("e", "killed"))
        for assignment in jobs:
            with pytest.raises(EdgeLost):
                _ = [piece async for piece in assignment]


async def test_a_load_of_which_nothing_is_heard_is_given_up() -> None:
    now = 0.0
    link = ScriptedLink()
    fields = {"switch_slack_s": 60.0, "switch_dwell_s": 5.0, "grouping": False}
    pool = EdgePool(link, PolicyConfig(**fields), lambda: now)  # type: ignore[arg-type]
    serving = asyncio.create_task(pool.serve())
    link.happen(PeerJoined("e", SPARE))
    await settle()
    async with AsyncExitStack() as waiting:
        for n in range(9):
            await waiting.enter_async_context(pool.run(job(n)))
        assert loads_asked(link) == ["small"]
        now = 1000.0
        await waiting.enter_async_context(pool.run(job(9)))
        assert pool.roster.report()[0]["loading"] is None
    link.happen(None)
    await serving


async def test_a_named_model_is_kept_whatever_the_edge_runs() -> None:
    async with pool_with() as (pool, link):
        named = msgspec.structs.replace(job(0), model="small")
        async with pool.run(named) as assignment:
            assert assignment.model == "small"
        assert models_sent(link) == ["small"]


async def test_without_switching_the_largest_model_writes_all() -> None:
    async with pool_with(switching=False) as (pool, link):
        async with AsyncExitStack() as stack, pool.run(job(0)), pool.run(job(1)):
            for n in range(2, 9):
                await stack.enter_async_context(pool.run(job(n)))
        assert set(models_sent(link)) == {"large"}
        assert not pool.roster.switches


async def test_each_model_has_its_share_of_the_places() -> None:
    async with pool_with() as (pool, _):
        assert [(view.slots, view.num_in_flight) for view in pool.roster.views()] == [(2, 0)]
        assert pool.roster.report()[0]["model"] == "large"
