"""The cloud's opinion of candidates: when it is asked, what it changes, and that nothing hangs on
it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from scripted import ScriptedLink, ScriptedLoop, settle
from scripted_cloud import TEXTS, cloud, request

from picert.cloud.service import CloudService
from picert.config import PolicyConfig
from picert.errors import DeadlineExceeded, QueueFull, Unavailable
from picert.messages import AnswerEvent, Done, ExpandJob, TextDelta

CHECKED = PolicyConfig(w_cloud_check=0.5)
ONE = "Seven hours of rest let the mind recover from pressure and from worry."
OTHER = "Seven hours of rest let the mind recover from strain and from grief."
GARBAGE = "And so on and so on and so on and so on and so on."


class Asked:
    """A service, and a question to it. Its edges write the first segment last, so that races behind
    the front of the answer end by themselves. Of the second segment the first candidate is
    `texts[0]` and each further one `texts[1]`; of the others only the first is fit."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self._held: list[tuple[str, ExpandJob, str]] = []

    def write(self, edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        segment, is_first = job.segments[0], job.candidate == 0
        texts = self._texts if segment.index == 1 else (TEXTS[segment.text], GARBAGE)
        text = f" {texts[0 if is_first else 1]}"
        if segment.index == 0:
            self._held.append((edge, job, text))
        else:
            link.write(edge, job, text)

    @asynccontextmanager
    async def at(
        self, policy: PolicyConfig
    ) -> AsyncIterator[tuple[CloudService, ScriptedLoop, ScriptedLink]]:
        async with cloud(self.write, "e1", "e2", slots=32, policy=policy) as parts:
            yield parts

    async def answer(self, service: CloudService, link: ScriptedLink) -> tuple[str, Done]:
        async def collect() -> list[AnswerEvent]:
            return [event async for event in service.answer(request())]

        asking = asyncio.create_task(collect())
        for _ in range(5):
            await settle()
        for edge, job, text in self._held:
            link.write(edge, job, text)
        events = await asking
        assert isinstance(events[-1], Done)
        return "".join(e.text for e in events if isinstance(e, TextDelta)), events[-1]


def likes(wanted: str) -> Callable[[str], float]:
    """A cloud that would rather write texts with `wanted`."""
    return lambda text: -1.0 if wanted in text else -2.0


def told(done: Done) -> list[str]:
    return [reason for reason in done.reasons if "cloud" in reason and "segment" in reason]


async def test_of_like_candidates_the_one_that_the_cloud_would_write_goes_out() -> None:
    changed = []
    for wanted in ("pressure", "strain"):
        asked = Asked(ONE, OTHER)
        async with asked.at(CHECKED) as (service, loop, link):
            loop.opinion = likes(wanted)
            text, done = await asked.answer(service, link)
            assert sum(service.tally.checks.values()) == 1
            changed.append(service.tally.checks["changed"])
        assert wanted in text
        [reason] = told(done)
        assert reason.startswith("segment 2: the cloud reads tiny -")
    assert sorted(changed) == [0, 1]


async def test_the_cloud_reads_a_text_where_its_own_would_stand() -> None:
    asked = Asked(ONE, OTHER)
    async with asked.at(CHECKED) as (service, loop, link):
        await asked.answer(service, link)
        assert {part for part, _ in loop.scored} >= {"check-1-0", "check-1-1"}
        assert all(part.startswith("check-1-") for part, _ in loop.scored)
        assert loop.prompts["check-1-0"].endswith(f"**Enough sleep**: {ONE}")
        assert loop.prompts["check-1-1"].endswith(f"**Enough sleep**: {OTHER}")


async def test_a_check_goes_behind_all_that_is_written_and_has_a_deadline() -> None:
    asked = Asked(ONE, OTHER)
    async with asked.at(CHECKED) as (service, loop, link):
        await asked.answer(service, link)
        assert loop.scored
        for _, terms in loop.scored:
            assert terms.priority > request().priority
            assert terms.deadline_s == CHECKED.cloud_check_s
            assert not terms.is_owed


async def test_what_the_cloud_reads_is_counted_and_nothing_is_said_to_be_written() -> None:
    usages = []
    for policy in (PolicyConfig(), CHECKED):
        asked = Asked(ONE, OTHER)
        async with asked.at(policy) as (service, loop, link):
            _, done = await asked.answer(service, link)
            usages.append(done.usage)
            num_read = sum(len(loop.prompts[part]) for part, _ in loop.scored)
    assert usages[1].cloud_prompt_tokens - usages[0].cloud_prompt_tokens == num_read > 0
    assert usages[1].cloud_completion_tokens == usages[0].cloud_completion_tokens


@pytest.mark.parametrize(
    ("policy", "texts"),
    [
        (PolicyConfig(), (ONE, OTHER)),
        (PolicyConfig(w_cloud_check=0.5, ensemble=False), (ONE, OTHER)),
        (CHECKED, (ONE, GARBAGE)),
    ],
)
async def test_without_a_weight_or_a_choice_the_cloud_is_not_asked(
    policy: PolicyConfig, texts: tuple[str, str]
) -> None:
    asked = Asked(*texts)
    async with asked.at(policy) as (service, loop, link):
        text, done = await asked.answer(service, link)
        assert loop.scored == []
    assert ONE in text or OTHER in text
    assert told(done) == []


@pytest.mark.parametrize("error", [DeadlineExceeded, QueueFull, Unavailable])
async def test_an_opinion_that_does_not_come_costs_the_opinion_alone(
    error: type[Exception],
) -> None:
    def opinion(text: str) -> float:
        if ONE in text:
            raise error("no opinion")
        return -0.1  # this one alone must not decide

    answers = []
    for policy in (PolicyConfig(), CHECKED):
        asked = Asked(ONE, OTHER)
        async with asked.at(policy) as (service, loop, link):
            loop.opinion = opinion
            text, done = await asked.answer(service, link)
            answers.append((text, [s.confidence for s in done.segments]))
            late = service.tally.checks["late"]
    assert answers[0] == answers[1]
    assert late == 1
    assert told(done) == ["segment 2: the cloud's check did not come in time"]


async def test_closing_the_answer_ends_its_checks() -> None:
    asked = Asked(ONE, OTHER)
    async with asked.at(CHECKED) as (service, loop, _):
        loop.may_score = asyncio.Event()
        events = service.answer(request())
        await anext(events)
        for _ in range(5):
            await settle()
        assert any("/check-1-" in name for name in loop.open)
        await events.aclose()
        assert loop.open == set()
        assert not service.tally.checks
