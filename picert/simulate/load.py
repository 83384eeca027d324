"""Load on a system, real or simulated: when questions arrive, and what clients saw of the answers.

light       one at a time: the next question comes when the last one is answered. It is the limit of
            Poisson arrivals whose rate goes to nothing, without the hours between them.
half        Poisson arrivals at half the rate that `direct` reaches when saturated.
0.8, 2 …    Poisson arrivals at so many times that rate.
N/min       Poisson arrivals at this rate, which may swing as it does over a day.
trace       at the times of a trace.
saturated   a fixed number of clients, each with one question in flight, always.

Time is a parameter, so that tests run without waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from picert.messages import Done
from picert.simulate.questions import Question

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
_MIN_TASKS = 64  # open ones among so many are told apart from those that have ended


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
Keep = Callable[[int, Answered], None]  # with the number of the question


@dataclass(frozen=True, slots=True)
class Load:
    """How questions arrive. `share` is of direct's saturated rate, for Poisson arrivals; `per_min`
    is a rate of its own, `times` are seconds from the start."""

    name: str
    share: float | None = None
    per_min: float | None = None
    times: tuple[float, ...] = ()
    swing: float = 0.0  # of `per_min`: it goes up and down by this share of itself
    period_s: float = 3600.0  # from one peak to the next

    @property
    def is_poisson(self) -> bool:
        """Whether it needs direct's saturated rate."""
        return self.share is not None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of a load: the first answer to each question, and rates a minute."""

    answers: tuple[Answered, ...]  # in the order of the questions; none if somebody else kept them
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
        self,
        load: Load,
        questions: Sequence[Question],
        direct_per_min: float | None,
        keep: Keep | None = None,
    ) -> LoadResult:
        """Every question once, more when saturated. `direct_per_min` is needed by Poisson loads.
        Where `keep` is given it gets each answer as it comes, and the result has none."""
        kept: dict[int, Answered] = {}
        result = await self._run(load, questions, direct_per_min, keep or kept.__setitem__)
        return replace(result, answers=tuple(kept[number] for number in sorted(kept)))

    async def _run(
        self, load: Load, questions: Sequence[Question], direct_per_min: float | None, keep: Keep
    ) -> LoadResult:
        if load.share is not None:
            assert direct_per_min is not None
            return await self._poisson(load, questions, load.share * direct_per_min, keep)
        if load.per_min is not None:
            return await self._poisson(load, questions, load.per_min, keep)
        if load.times:
            return await self._at(load.times, questions, None, keep)
        if load.name == "light":
            return await self._one_at_a_time(questions, keep)
        return await self._saturated(questions, keep)

    async def _one_at_a_time(self, questions: Sequence[Question], keep: Keep) -> LoadResult:
        count = _Count(self.clock(), keep)
        for number, question in enumerate(questions):
            count.add(number, await self.ask(question))
        return count.result(self.clock(), None)

    async def _poisson(
        self, load: Load, questions: Sequence[Question], per_min: float, keep: Keep
    ) -> LoadResult:
        times = arrivals(random.Random(self.seed), per_min / 60, load.swing, load.period_s)
        return await self._at(times, questions, per_min, keep)

    async def _at(
        self,
        times: Iterable[float],
        questions: Sequence[Question],
        per_min: float | None,
        keep: Keep,
    ) -> LoadResult:
        """Arrivals do not wait for answers."""
        count = _Count(self.clock(), keep)
        tasks: list[asyncio.Task[None]] = []
        most = _MIN_TASKS

        async def one(number: int, question: Question) -> None:
            count.add(number, await self.ask(question))

        try:
            for due, (number, question) in zip(times, enumerate(questions), strict=False):
                await self.sleep(max(0.0, count.began + due - self.clock()))
                if len(tasks) >= most:
                    tasks = [task for task in tasks if not _has_ended(task)]
                    most = max(_MIN_TASKS, 2 * len(tasks))
                tasks.append(asyncio.ensure_future(one(number, question)))
            await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)
        return count.result(self.clock(), per_min)

    async def _saturated(self, questions: Sequence[Question], keep: Keep) -> LoadResult:
        """Throughput by Little's law: clients in flight over the mean time of an answer. It counts
        the first questions issued, at least two of each client, while later ones keep the system
        full: so neither a ramp nor a tail nor clients in step distort it."""
        num_counted = max(len(questions), 2 * self.num_clients)
        count = _Count(self.clock(), lambda n, a: keep(n, a) if n < len(questions) else None)
        numbers = itertools.count()
        all_counted = asyncio.Event()

        async def client() -> None:
            while not all_counted.is_set():
                number = next(numbers)
                answer = await self.ask(questions[number % len(questions)])
                if number < num_counted:
                    count.add(number, answer)
                if count.num_answers == num_counted:
                    all_counted.set()
                await self.sleep(0)  # an answer that fails at once must not starve the others

        clients = [asyncio.create_task(client()) for _ in range(self.num_clients)]
        finished = asyncio.create_task(all_counted.wait())
        try:
            await asyncio.wait([finished, *clients], return_when=asyncio.FIRST_COMPLETED)
            for task in clients:
                _has_ended(task)
            await finished
        finally:
            await _cancel([finished, *clients])
        mean_s = sum(count.latencies_s) / num_counted
        rate = 60 * self.num_clients / mean_s * count.num_good / num_counted if mean_s > 0 else None
        result = count.result(self.clock(), None)
        return replace(result, requests_per_min=rate, num_sent=next(numbers))


def arrivals(
    rng: random.Random, per_s: float, swing: float = 0.0, period_s: float = 3600.0
) -> Iterator[float]:
    """Poisson arrivals without end, at `per_s` times `1 + swing * sin` of the time: those at the
    peak's rate, of which fewer are kept the lower the rate is."""
    now = 0.0
    while True:
        now += rng.expovariate(per_s * (1 + swing))
        rate = 1 + swing * math.sin(math.tau * now / period_s)
        if not swing or rng.random() * (1 + swing) < rate:
            yield now


class _Count:
    """Answers as they come: a number of each is kept here, the rest is the keeper's."""

    def __init__(self, began: float, keep: Keep) -> None:
        self.began = began
        self.latencies_s = array("d")  # by number, of a million answers in 8 MB
        self.num_answers = 0
        self.num_good = 0
        self._keep = keep

    def add(self, number: int, answer: Answered) -> None:
        """One answer more."""
        missing = number + 1 - len(self.latencies_s)
        self.latencies_s.extend([0.0] * missing)  # those before it are on their way
        self.latencies_s[number] = answer.latency_s
        self.num_answers += 1
        self.num_good += answer.error is None
        self._keep(number, answer)

    def result(self, now: float, offered: float | None) -> LoadResult:
        """Of arrivals that do not hang on answers."""
        seconds = now - self.began
        rate = 60 * self.num_good / seconds if seconds > 0 else None
        latencies = tuple(self.latencies_s)
        return LoadResult((), rate, offered, latencies, len(latencies), seconds)


def _has_ended(task: asyncio.Task[None]) -> bool:
    """Raises what ended it, if anything did."""
    if task.done():
        task.result()
    return task.done()


async def _cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
