"""Arrivals and rates under a clock that the test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from random import Random

import pytest
from scripted_service import DONE

from picert.simulate.load import (
    Answered,
    Load,
    LoadGenerator,
    LoadResult,
    arrivals,
    parse_load,
)
from picert.simulate.questions import Question

QUESTIONS = [
    Question(id=str(n), question_class="generic", question=f"Question {n}?") for n in range(12)
]


class VirtualTime:
    """Sleepers in order of their time; the clock jumps to the next one when all others wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), woken))
        await woken

    async def drive(self, task: asyncio.Task[LoadResult]) -> LoadResult:
        while not task.done():
            for _ in range(5):  # whoever can go on does
                await asyncio.sleep(0)
            if self._sleepers and not task.done():
                self.now, _, woken = heapq.heappop(self._sleepers)
                if not woken.done():
                    woken.set_result(None)
        return task.result()


async def run(
    load: str,
    seconds_of: Callable[[Question], float],
    *,
    clients: int = 3,
    direct: float | None = None,
    seed: int = 0,
) -> tuple[LoadResult, list[float]]:
    time, asked = VirtualTime(), []

    async def ask(question: Question) -> Answered:
        asked.append(time.now)
        took = seconds_of(question)
        await time.sleep(abs(took))
        if took < 0:
            return Answered(question, "", -took, None, None, "it broke")
        return Answered(question, "Yes.", took, took / 2, DONE)

    generator = LoadGenerator(ask, lambda: time.now, time.sleep, clients, seed)
    task = asyncio.ensure_future(generator.run(parse_load(load), QUESTIONS, direct))
    return await time.drive(task), asked


async def test_light_load_asks_when_the_last_answer_is_there() -> None:
    result, asked = await run("light", lambda _: 2.0)
    assert asked == [2.0 * n for n in range(12)]
    assert result.requests_per_min == pytest.approx(30)


async def test_poisson_arrivals_do_not_wait_and_have_their_rate() -> None:
    result, asked = await run("half", lambda _: 100.0, direct=120)
    assert result.offered_per_min == 60
    assert asked[-1] < 40
    assert asked == sorted(asked)
    again = await run("half", lambda _: 100.0, direct=120)
    assert again[1] == asked
    assert (await run("half", lambda _: 100.0, direct=120, seed=1))[1] != asked


async def test_saturated_load_keeps_the_clients_busy_until_all_are_counted() -> None:
    result, asked = await run("saturated", lambda q: 1.0 + int(q.id) % 3)
    assert asked[:3] == [0.0, 0.0, 0.0]
    assert [a.question.id for a in result.answers] == [q.id for q in QUESTIONS]
    assert result.requests_per_min == pytest.approx(60 * 3 / 2.0)


async def test_few_questions_are_asked_again_until_each_client_had_two() -> None:
    result, asked = await run("saturated", lambda _: 1.0, clients=10)
    assert len(result.rate_latencies_s) == 20
    assert len(asked) >= 20
    assert len(result.answers) == len(QUESTIONS)
    assert result.requests_per_min == pytest.approx(600)


async def test_failed_answers_count_as_failures_and_not_in_the_rate() -> None:
    result, _ = await run("saturated", lambda q: -1.0 if int(q.id) % 2 else 1.0)
    assert [a.error for a in result.answers] == [None, "it broke"] * 6
    assert result.requests_per_min == pytest.approx(60 * 3 / 1.0 / 2)


def test_a_rate_that_swings_has_its_mean_and_its_peaks() -> None:
    times = list(itertools.takewhile(lambda t: t < 4000.0, arrivals(Random(1), 5.0, 0.8, 1000.0)))
    assert len(times) == pytest.approx(4000 * 5, rel=0.02)
    high = sum(t % 1000 < 500 for t in times) / len(times)
    assert high == pytest.approx(0.5 + 0.8 / math.pi, abs=0.02)


async def test_answers_that_somebody_else_keeps_are_not_in_the_result() -> None:
    time, kept = VirtualTime(), {}

    async def ask(question: Question) -> Answered:
        await time.sleep(10.0 - int(question.id) % 7)
        return Answered(question, "", time.now, None, DONE)

    generator = LoadGenerator(ask, lambda: time.now, time.sleep, 1, 0)
    load = Load("trace", times=tuple(map(float, range(12))))
    running = generator.run(load, QUESTIONS, None, kept.__setitem__)
    result = await time.drive(asyncio.ensure_future(running))
    assert result.answers == ()
    assert [kept[n].question for n in range(12)] == QUESTIONS
    assert list(result.rate_latencies_s) == [kept[n].latency_s for n in range(12)]


async def test_arrivals_hold_no_task_of_what_was_answered_long_ago() -> None:
    time, most_open = VirtualTime(), 0

    async def ask(question: Question) -> Answered:
        nonlocal most_open
        await time.sleep(0.5)
        most_open = max(most_open, len(asyncio.all_tasks()))
        return Answered(question, "", 0.5, None, DONE)

    generator = LoadGenerator(ask, lambda: time.now, time.sleep, 1, 0)
    load = Load("trace", times=tuple(map(float, range(1000))))
    running = generator.run(load, QUESTIONS * 100, None, lambda number, answer: None)
    result = await time.drive(asyncio.ensure_future(running))
    assert len(result.rate_latencies_s) == 1000
    assert most_open < 10


@pytest.mark.parametrize("text", ["heavy", "0", "-1", "nan", ""])
def test_unknown_load_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="light, half, saturated or a number"):
        parse_load(text)


def test_number_is_a_share_of_directs_rate() -> None:
    assert parse_load("0.8") == Load("0.8", 0.8)
    assert parse_load("half").share == 0.5
