"""The engine's thread: streams, cancellation, deadlines and the ways it may end."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import pytest
from fake_engine import FakeRunner, fake_engine, greedy_after

from picert.engine.loop import EngineLoop
from picert.engine.sequence import Output, Terms
from picert.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    PicertError,
    QueueFull,
    Unavailable,
)
from picert.messages import SamplingParams

FOREVER = SamplingParams(temperature=0.0, max_tokens=200)
SHORT = SamplingParams(temperature=0.0, max_tokens=5)
Make = Callable[..., EngineLoop]


@pytest.fixture
def make() -> Iterator[Make]:
    """Loops that are stopped at the end, with every table of their engine empty."""
    loops: list[EngineLoop] = []

    def start(runner: FakeRunner | None = None, **fields: object) -> EngineLoop:
        loops.append(EngineLoop(fake_engine(runner, **fields)))
        loops[-1].start()
        return loops[-1]

    yield start
    for loop in loops:
        loop.stop(10.0)
        assert loop.num_requests == 0
        assert not loop._thread.is_alive()


def paused() -> FakeRunner:
    """A runner that makes a step for each release of its gate."""
    runner = FakeRunner()
    runner.gate = threading.Semaphore(0)
    return runner


async def collect(stream: AsyncIterator[Output]) -> list[int]:
    return [token async for output in stream for token in output.token_ids]


async def drained(loop: EngineLoop) -> None:
    """Commands are carried out in order: once this request is done, earlier aborts are too."""
    await collect(loop.stream("drain", [3], SHORT))
    assert loop.engine.num_requests == 0
    loop.engine.self_check()


async def test_streams_of_many_requests_are_their_own(make: Make) -> None:
    loop = make()
    prompts = [[i + 1, 2, 3] for i in range(40)]
    got = await asyncio.gather(
        *(collect(loop.stream(f"r{i}", prompt, SHORT)) for i, prompt in enumerate(prompts))
    )
    assert got == [greedy_after(prompt, 5) for prompt in prompts]
    assert loop.num_requests == 0


async def test_outputs_that_nobody_fetched_yet_come_as_one(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    runner.gate.release()
    async with aclosing(loop.stream("x", [1], FOREVER)) as stream:
        first = await anext(stream)
        runner.gate.release(10**4)
        while loop.num_requests:  # this event loop is busy elsewhere
            time.sleep(0.001)
        rest = [output async for output in stream]
    assert len(rest) <= 2  # what was brought before it was busy, and the rest
    tokens = [token for output in (first, *rest) for token in output.token_ids]
    assert tokens == greedy_after([1], 200)
    assert rest[-1].finish_reason == "length"
    assert rest[-1].num_completion_tokens == 200


async def test_closing_the_iterator_aborts(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    runner.gate.release()
    async with aclosing(loop.stream("x", [1], FOREVER)) as stream:
        async for _ in stream:
            break
    runner.gate.release(10**4)
    await drained(loop)
    assert loop.stats().finished["cancelled"] == 1


async def test_cancelling_the_consumer_aborts(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    started = asyncio.Event()

    async def consume() -> None:
        async for _ in loop.stream("x", [1], FOREVER):
            started.set()

    task = asyncio.create_task(consume())
    runner.gate.release()
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    runner.gate.release(10**4)
    await drained(loop)


async def test_cancelling_before_the_first_output_aborts(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    task = asyncio.create_task(collect(loop.stream("x", [1], FOREVER)))
    await asyncio.sleep(0)  # the task has submitted and waits
    assert loop.num_requests == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    runner.gate.release(10**4)
    await drained(loop)


async def test_closing_an_iterator_that_never_started_costs_nothing(make: Make) -> None:
    loop = make()
    await loop.stream("x", [1], FOREVER).aclose()
    assert loop.num_requests == 0


async def test_deadline_ends_the_stream_even_while_a_step_hangs(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.02 s"):
        await collect(loop.stream("x", [1], FOREVER, terms=Terms(deadline_s=0.02)))
    assert loop.num_requests == 0
    runner.gate.release(10**4)
    await drained(loop)


async def test_deadline_that_has_passed_ends_at_once(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    with pytest.raises(DeadlineExceeded):
        await collect(loop.stream("x", [1], FOREVER, terms=Terms(deadline_s=-1.0)))
    runner.gate.release(10**4)


async def test_refused_request_raises_and_leaves_others_alone(make: Make) -> None:
    loop = make(max_model_len=64)
    with pytest.raises(ContextLengthExceeded):
        await collect(loop.stream("x", [1] * 100, SHORT))
    with pytest.raises(InvalidRequest, match="no tokens"):
        await collect(loop.stream("y", [], SHORT))
    await drained(loop)


async def test_request_id_in_use_leaves_its_owner_alone(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    first = asyncio.create_task(collect(loop.stream("x", [1], SHORT)))
    second = asyncio.create_task(collect(loop.stream("x", [2], SHORT)))
    await asyncio.sleep(0)
    runner.gate.release(10**4)
    assert await first == greedy_after([1], 5)
    with pytest.raises(InvalidRequest, match="in use"):
        await second


async def test_more_streams_than_the_bound_are_refused(make: Make) -> None:
    runner = paused()
    loop = make(runner, max_num_seqs=2, max_num_queued_reqs=1)
    tasks = [asyncio.create_task(collect(loop.stream(f"r{i}", [1], SHORT))) for i in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="the limit is 3"):
        await collect(loop.stream("r3", [1], SHORT))
    runner.gate.release(10**4)
    assert len(await asyncio.gather(*tasks)) == 3


class Failing(FakeRunner):
    def run(self, batch: object) -> object:  # type: ignore[override]
        raise RuntimeError("the cache caught fire")


async def test_engine_failure_ends_every_stream_with_its_reason(make: Make) -> None:
    loop = make(Failing())
    tasks = [asyncio.create_task(collect(loop.stream(f"r{i}", [1], SHORT))) for i in range(3)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in results)
    assert all("the cache caught fire" in str(error) for error in results)
    assert not loop.is_alive
    with pytest.raises(Unavailable, match="the cache caught fire"):
        await collect(loop.stream("late", [1], SHORT))


async def test_stop_ends_every_stream_exactly_once(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    ends: list[PicertError] = []

    async def consume(i: int) -> None:
        try:
            await collect(loop.stream(f"r{i}", [1], FOREVER))
        except PicertError as error:
            ends.append(error)

    tasks = [asyncio.create_task(consume(i)) for i in range(4)]
    await asyncio.sleep(0)
    runner.gate.release(10**4)
    await asyncio.to_thread(loop.stop, 10.0)
    await asyncio.gather(*tasks)
    assert [type(error) for error in ends] == [Unavailable] * 4
    assert not loop.is_alive
    assert loop.engine.num_requests == 0
    loop.engine.self_check()


async def test_stop_does_not_wait_for_a_step_that_hangs(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    task = asyncio.create_task(collect(loop.stream("x", [1], FOREVER)))
    await asyncio.sleep(0)
    await asyncio.to_thread(loop.stop, 0.01)
    with pytest.raises(Unavailable, match="stopped"):
        await task
    runner.gate.release(10**4)


async def test_loop_that_has_not_started_refuses(make: Make) -> None:
    loop = EngineLoop(fake_engine())
    assert not loop.is_alive
    with pytest.raises(Unavailable, match="has not started"):
        await collect(loop.stream("x", [1], SHORT))


async def test_stall_is_seen_only_while_there_is_work(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    assert loop.seconds_stalled() == 0.0
    task = asyncio.create_task(collect(loop.stream("x", [1], SHORT)))
    await asyncio.sleep(0)
    assert loop.seconds_stalled() > 0.0
    before = loop.last_step_at
    runner.gate.release(10**4)
    await task
    assert loop.seconds_stalled() == 0.0
    assert loop.last_step_at > before


async def test_idle_loop_makes_no_steps(make: Make) -> None:
    loop = make()
    await drained(loop)
    steps = loop.stats().steps
    await drained(loop)
    assert loop.stats().steps == 2 * steps == 10


def test_consumer_whose_event_loop_is_gone_is_forgotten(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    stream = loop.stream("x", [1], FOREVER)
    waiting = stream.__anext__()

    async def submit() -> None:
        waiting.send(None)  # up to where it waits for its first output

    asyncio.run(submit())  # and then nobody runs this event loop again
    runner.gate.release(10**4)
    asyncio.run(drained(loop))
    assert loop.stats().finished["cancelled"] == 1
    waiting.close()


async def test_a_prompt_is_scored_beside_texts_that_are_written(make: Make) -> None:
    loop, ids, span = make(), [5, 9, 2, 7, 3, 11], (2, 6)
    alone = fake_engine()
    alone.score("x", ids, [span])
    [expected] = [output for _ in range(9) if alone.has_work for output in alone.step()]
    written, scored = await asyncio.gather(
        collect(loop.stream("text", [1, 2], SHORT)), loop.score("score", ids, [span])
    )
    assert written == greedy_after([1, 2], 5)
    assert scored.span_logprobs == expected.span_logprobs
    assert (scored.finish_reason, scored.num_completion_tokens, scored.text) == ("stop", 0, "")
    with pytest.raises(InvalidRequest, match="span 0 to 9"):
        await loop.score("wrong", ids, [(0, 9)])


async def test_a_score_ends_with_its_deadline_or_its_caller(make: Make) -> None:
    runner = paused()
    loop = make(runner)
    with pytest.raises(DeadlineExceeded):
        await loop.score("late", [1, 2, 3], [(1, 3)], terms=Terms(deadline_s=0.01))
    asking = asyncio.create_task(loop.score("left", [1, 2, 3], [(1, 3)]))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    runner.gate.release(10**4)
    await drained(loop)
