"""Load on a system, real or simulated: when questions arrive, and what clients saw of the answers.

light       one at a time: the next question comes when the last one is answered. It is the limit of
            Poisson arrivals whose rate goes to nothing, without the hours between them.
half        Poisson arrivals at half the rate that `direct` reaches when saturated.
0.8, 2 …    Poisson arrivals at so many times that rate.
N/min       Poisson arrivals at this rate.
trace       at the times of a trace.
saturated   a fixed number of clients, each with one question in flight, always.

Time is a parameter, so that tests run without waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from picert.messages import Done
from picert.simulate.questions import Question

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answered:
    """One question as its client saw it. Times are seconds from its arrival; an `error` has no
    `done`."""

    question: Question
    text: str
    latency_s: float
    first_text_s: float | None
    done: Done | None
    error: str | None = None


Ask = Callable[[Question], Awaitable[Answered]]


@dataclass(frozen=True, slots=True)
class Load:
    """How questions arrive. `share` is of direct's saturated rate, for Poisson arrivals; `per_min`
    is a rate of its own, `times` are seconds from the start."""

    name: str
    share: float | None = None
    per_min: float | None = None
    times: tuple[float, ...] = ()

    @property
    def is_poisson(self) -> bool:
        """Whether it needs direct's saturated rate."""
        return self.share is not None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of a load: the first answer to each question, and rates a minute."""

    answers: tuple[Answered, ...]
    requests_per_min: float | None
    offered_per_min: float | None  # of Poisson arrivals
    rate_latencies_s: tuple[float, ...]  # of the answers that the rate rests on
    num_sent: int  # questions asked in all, those after the counted ones too
    seconds: float


def parse_load(text: str) -> Load:
    """Raises ValueError for what is no load."""
    if text in ("light", "saturated"):
        return Load(text)
    if text == "half":
        return Load(text, 0.5)
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.01 <= share <= 100:
        raise ValueError(
            f"load {text!r} is unknown: light, half, saturated or a number such as 0.8 is wanted"
        )
    return Load(text, share)


@dataclass(frozen=True, slots=True)
class LoadGenerator:
    """Asks questions at the times that a load prescribes."""

    ask: Ask
    clock: Clock
    sleep: Sleep
    num_clients: int  # in flight when saturated
    seed: int

    async def run(
        self, load: Load, questions: Sequence[Question], direct_per_min: float | None
    ) -> LoadResult:
        """Every question once, more when saturated. `direct_per_min` is needed by Poisson loads."""
        if load.share is not None:
            assert direct_per_min is not None
            return await self._poisson(questions, load.share * direct_per_min)
        if load.per_min is not None:
            return await self._poisson(questions, load.per_min)
        if load.times:
            return await self._at(load.times, questions, None)
        if load.name == "light":
            return await self._one_at_a_time(questions)
        return await self._saturated(questions)

    async def _one_at_a_time(self, questions: Sequence[Question]) -> LoadResult:
        began = self.clock()
        answers = [await self.ask(question) for question in questions]
        return self._counted(answers, self.clock() - began, None)

    async def _poisson(self, questions: Sequence[Question], per_min: float) -> LoadResult:
        rng = random.Random(self.seed)
        times = itertools.accumulate(rng.expovariate(per_min / 60) for _ in questions)
        return await self._at(times, questions, per_min)

    async def _at(
        self, times: Iterable[float], questions: Sequence[Question], per_min: float | None
    ) -> LoadResult:
        """Arrivals do not wait for answers."""
        began = self.clock()
        tasks: list[asyncio.Task[Answered]] = []
        try:
            for due, question in zip(times, questions, strict=False):
                await self.sleep(max(0.0, began + due - self.clock()))
                tasks.append(asyncio.ensure_future(self.ask(question)))
            answers = await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)
        return self._counted(answers, self.clock() - began, per_min)

    async def _saturated(self, questions: Sequence[Question]) -> LoadResult:
        """Throughput by Little's law: clients in flight over the mean time of an answer. It counts
        the first questions issued, at least two of each client, while later ones keep the system
        full: so neither a ramp nor a tail nor clients in step distort it."""
        began = self.clock()
        num_counted = max(len(questions), 2 * self.num_clients)
        answers: dict[int, Answered] = {}
        numbers = itertools.count()
        all_counted = asyncio.Event()

        async def client() -> None:
            while not all_counted.is_set():
                number = next(numbers)
                answer = await self.ask(questions[number % len(questions)])
                if number < num_counted:
                    answers[number] = answer
                if len(answers) == num_counted:
                    all_counted.set()
                await self.sleep(0)  # an answer that fails at once must not starve the others

        clients = [asyncio.create_task(client()) for _ in range(self.num_clients)]
        finished = asyncio.create_task(all_counted.wait())
        try:
            await asyncio.wait([finished, *clients], return_when=asyncio.FIRST_COMPLETED)
            for task in clients:
                if task.done():
                    task.result()
            await finished
        finally:
            await _cancel([finished, *clients])
        counted = [answers[number] for number in range(num_counted)]
        good = sum(answer.error is None for answer in counted)
        mean_s = sum(answer.latency_s for answer in counted) / num_counted
        rate = 60 * self.num_clients / mean_s * good / num_counted if mean_s > 0 else None
        return LoadResult(
            answers=tuple(counted[: len(questions)]),
            requests_per_min=rate,
            offered_per_min=None,
            rate_latencies_s=tuple(answer.latency_s for answer in counted),
            num_sent=next(numbers),
            seconds=self.clock() - began,
        )

    def _counted(
        self, answers: Sequence[Answered], seconds: float, offered: float | None
    ) -> LoadResult:
        good = sum(answer.error is None for answer in answers)
        rate = 60 * good / seconds if seconds > 0 else None
        latencies = tuple(answer.latency_s for answer in answers)
        return LoadResult(tuple(answers), rate, offered, latencies, len(answers), seconds)


async def _cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
