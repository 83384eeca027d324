"""EdgePool with an edge that holds two models: which one its jobs name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from scripted import ScriptedLink, settle

from picert.cloud.edges import EdgePool
from picert.config import PolicyConfig
from picert.messages import ExpandJob, Hello, ModelInfo, Segment, SpeedCurve
from picert.transport.events import PeerJoined

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
