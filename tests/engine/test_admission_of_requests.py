"""Who is let into a full engine, who waits how long, and who goes first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from eventually import eventually
from fake_engine import FakeRunner, fake_engine

from picert.engine.loop import EngineLoop
from picert.engine.sequence import Output, Terms
from picert.errors import QueueFull, QueueTimeout
from picert.messages import SamplingParams

SHORT = SamplingParams(temperature=0.0, max_tokens=4)
OWED = Terms(is_owed=True)


async def collect(stream: AsyncIterator[Output]) -> list[int]:
    return [token async for output in stream for token in output.token_ids]


@pytest.fixture
def paused() -> Iterator[EngineLoop]:
    """An engine of one place whose steps wait for its runner's gate."""
    runner = FakeRunner()
    runner.gate = threading.Semaphore(0)
    loop = EngineLoop(fake_engine(runner, max_num_seqs=1, max_num_queued_reqs=2))
    loop.start()
    yield loop
    runner.gate.release(10**6)
    loop.stop(10.0)
    loop.engine.self_check()
    assert loop.num_requests == 0


def test_prompts_beyond_the_token_limit_are_refused_and_counted_exactly() -> None:
    engine = fake_engine(max_num_queued_tokens=20, max_num_seqs=1)
    engine.add("big", [1] * 30, SHORT)  # alone it may be longer than the limit
    with pytest.raises(QueueFull, match="30 tokens are queued"):
        engine.add("more", [1], SHORT)
    engine.step()  # it has its place: nothing is queued now
    engine.add("a", [1] * 12, SHORT)
    engine.add("b", [1] * 8, SHORT)
    with pytest.raises(QueueFull, match="limit of 20"):
        engine.add("c", [1], SHORT)
    engine.self_check()
    engine.abort("a")
    engine.add("c", [1] * 12, SHORT)
    engine.self_check()
    while engine.has_work:
        engine.step()
    engine.self_check()


def test_text_that_is_owed_is_not_refused() -> None:
    engine = fake_engine(max_num_queued_tokens=1, max_num_seqs=1, max_num_queued_reqs=1)
    for name in ("a", "b", "c"):
        engine.add(name, [1] * 8, SHORT, terms=OWED)
    with pytest.raises(QueueFull):
        engine.add("new", [1], SHORT)


def test_lower_priority_number_goes_first() -> None:
    engine = fake_engine(max_num_seqs=1)
    for name, priority in (("last", 5), ("later", 0), ("first", -1)):
        engine.add(name, [1, 2], SHORT, terms=Terms(priority=priority))
    order: list[str] = []
    while engine.has_work:
        order += [out.request_id for out in engine.step() if out.finish_reason]
    assert order == ["first", "later", "last"]


async def test_request_that_gets_no_turn_ends_with_queue_timeout(paused: EngineLoop) -> None:
    first = asyncio.create_task(collect(paused.stream("first", [1], SHORT)))
    await eventually(lambda: paused.engine.has_started("first"))
    with pytest.raises(QueueTimeout, match=r"no turn within 0\.01 s"):
        await collect(paused.stream("second", [2], SHORT, terms=Terms(queue_timeout_s=0.01)))
    paused.engine._runner.gate.release(10**6)  # type: ignore[attr-defined]
    assert len(await first) == 4


async def test_request_that_had_its_turn_is_not_timed_out(paused: EngineLoop) -> None:
    text = asyncio.create_task(
        collect(paused.stream("x", [1], SHORT, terms=Terms(queue_timeout_s=0.05)))
    )
    await eventually(lambda: paused.engine.has_started("x"))
    await asyncio.sleep(0.1)  # past its timeout, within its first step
    paused.engine._runner.gate.release(10**6)  # type: ignore[attr-defined]
    assert len(await text) == 4


async def test_full_loop_lets_in_only_what_is_owed(paused: EngineLoop) -> None:
    tasks = [asyncio.create_task(collect(paused.stream(f"r{i}", [1], SHORT))) for i in range(3)]
    await eventually(lambda: paused.num_requests == 3)
    with pytest.raises(QueueFull):
        await collect(paused.stream("new", [1], SHORT))
    tasks.append(asyncio.create_task(collect(paused.stream("owed", [1], SHORT, terms=OWED))))
    await eventually(lambda: paused.num_requests == 4)
    paused.engine._runner.gate.release(10**6)  # type: ignore[attr-defined]
    assert [len(ids) for ids in await asyncio.gather(*tasks)] == [4] * 4


async def test_out_of_kv_means_preemption_and_then_refusal_never_a_crash() -> None:
    """Forty requests over a cache for about three: some wait, some are preempted, some refused."""
    engine = fake_engine(kv_tokens=96, max_num_seqs=8, max_num_queued_reqs=16, max_model_len=48)
    loop = EngineLoop(engine)
    loop.start()
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    tasks = [collect(loop.stream(f"r{i}", [1 + i % 9] * 12, params)) for i in range(40)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [r for r in results if isinstance(r, QueueFull)]
    answered = [r for r in results if isinstance(r, list)]
    loop.stop(10.0)
    assert len(refused) + len(answered) == 40
    assert refused
    assert {len(ids) for ids in answered} == {24}
    assert engine.stats.preemptions > 0
    assert engine.stats.kv_usage == 0.0
    engine.self_check()
