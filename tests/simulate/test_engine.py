"""The simulated engine batches as the real one does, on a clock that can be computed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing

import pytest

from picert.engine.sequence import Output, Terms
from picert.errors import DeadlineExceeded, QueueFull
from picert.messages import SamplingParams
from picert.pice.profile import SpeedProfile
from picert.simulate.clock import run
from picert.simulate.engine import (
    EngineLimits,
    Identity,
    Script,
    SimulatedEngine,
    SimulatedLoop,
    Telling,
)
from picert.simulate.host import Host
from picert.simulate.tokens import WordTokenizer

READ_S, STEP_S = 0.001, 0.1  # of a token read; of a step, whatever the batch


class Fixed:
    """Writes as many tokens as the request asks for."""

    def script(self, request_id: str, params: SamplingParams) -> Script:
        return Script([" word"] * (params.max_tokens - 1) + [""], "stop")


def engine(tokens_per_event: int = 1, **limits: int) -> SimulatedLoop:
    speed = SpeedProfile.of_tables([(1000, 1, 1000 * READ_S)], [(1, 0, STEP_S)])
    parts = SimulatedEngine(Identity("m"), WordTokenizer(), EngineLimits(**limits))
    host = Host(asyncio.get_running_loop())
    return SimulatedLoop(parts, speed, host, Fixed(), Telling(tokens_per_event=tokens_per_event))


async def write(
    loop: SimulatedLoop, name: str, prompt: Sequence[int], tokens: int, terms: Terms | None = None
) -> list[tuple[float, Output]]:
    stream = loop.stream(name, prompt, SamplingParams(max_tokens=tokens), terms=terms or Terms())
    clock = asyncio.get_running_loop().time
    return [(round(clock(), 6), output) async for output in stream]


def in_virtual_time(main: Coroutine[object, object, None]) -> None:
    run(lambda: main)


def test_a_text_takes_its_reading_and_a_step_for_each_further_token() -> None:
    async def main() -> None:
        told = await write(engine(), "a", range(100), 4)
        assert [at for at, _ in told] == [0.1, 0.2, 0.3, 0.4]
        last = told[-1][1]
        assert (last.finish_reason, last.num_completion_tokens) == ("stop", 4)

    in_virtual_time(main())


def test_a_prompt_that_comes_in_between_is_read_in_the_next_step() -> None:
    async def main() -> None:
        loop = engine()
        first = asyncio.create_task(write(loop, "a", range(100), 4))
        await asyncio.sleep(0.15)
        second = await write(loop, "b", range(200, 250), 1)
        assert second[0][0] == pytest.approx(0.2 + STEP_S + 50 * READ_S)
        assert (await first)[-1][0] == pytest.approx(0.45)

    in_virtual_time(main())


def test_steps_taken_together_end_when_another_text_comes() -> None:
    async def main() -> None:
        loop = engine(tokens_per_event=50)
        first = asyncio.create_task(write(loop, "a", range(100), 40))
        await asyncio.sleep(1.05)
        second = await write(loop, "b", range(200, 300), 1)
        assert second[0][0] == pytest.approx(1.1 + STEP_S + 0.1)
        assert (await first)[-1][0] == pytest.approx(0.1 + 39 * STEP_S + 0.1)

    in_virtual_time(main())


def test_grain_of_events_changes_no_time_of_an_end() -> None:
    async def main() -> None:
        fine = await write(engine(1), "a", range(10), 33)
        began = fine[-1][0]
        coarse = await write(engine(16), "a", range(10), 33)
        assert coarse[-1][0] - began == pytest.approx(began)
        assert len(coarse) < 5 < len(fine)

    in_virtual_time(main())


def test_a_known_prefix_is_not_read_again() -> None:
    async def main() -> None:
        loop = engine()
        await write(loop, "a", range(320), 1)
        began = asyncio.get_running_loop().time()
        told = await write(loop, "b", [*range(320), 7, 8, 9], 1)
        assert told[0][1].num_cached_tokens == 320
        assert told[0][0] - began == pytest.approx(3 * READ_S)

    in_virtual_time(main())


def test_who_finds_no_place_waits_by_priority() -> None:
    async def main() -> None:
        loop = engine(max_num_seqs=1)
        jobs = {
            name: asyncio.create_task(write(loop, name, range(10), 3, Terms(priority=priority)))
            for name, priority in (("a", 0), ("later", 1), ("sooner", 0))
        }
        ended = {name: (await job)[-1][0] for name, job in jobs.items()}
        assert ended["a"] < ended["sooner"] < ended["later"]

    in_virtual_time(main())


def test_an_aborted_text_leaves_its_place() -> None:
    async def main() -> None:
        loop = engine(max_num_seqs=1)
        stream = loop.stream("a", range(10), SamplingParams(max_tokens=500))
        async with aclosing(stream) as outputs:
            async for _ in outputs:
                break
        assert len(await write(loop, "b", range(10), 2)) == 2
        await asyncio.sleep(1)
        loop.self_check()
        assert (loop.num_running, loop.num_waiting) == (0, 0)

    in_virtual_time(main())


def test_deadline_and_full_queue_are_the_real_errors() -> None:
    async def main() -> None:
        loop = engine(max_num_seqs=1, max_num_queued_reqs=1)
        first = asyncio.create_task(write(loop, "a", range(10), 100, Terms(deadline_s=2.0)))
        second = asyncio.create_task(write(loop, "b", range(10), 2))
        await asyncio.sleep(0.5)
        with pytest.raises(QueueFull):
            await write(loop, "c", range(10), 2)
        with pytest.raises(DeadlineExceeded):
            await first
        assert len(await second) == 2

    in_virtual_time(main())


def test_a_scored_prompt_takes_its_reading_and_reads_its_spans_again() -> None:
    async def main() -> None:
        loop, clock = engine(), asyncio.get_running_loop().time
        first = await loop.score("a", range(320), [(310, 320)])
        assert (first.finish_reason, first.num_completion_tokens) == ("stop", 0)
        assert len(first.span_logprobs) == 1
        began = clock()
        assert began == pytest.approx(320 * READ_S)
        again = await loop.score("b", range(320), [(300, 310), (310, 320)])
        assert again.num_cached_tokens <= 299
        assert len(again.span_logprobs) == 2
        assert clock() - began == pytest.approx((320 - again.num_cached_tokens) * READ_S)
        loop.self_check()

    in_virtual_time(main())
