"""Several candidates of one segment: which text is shown, when, and what becomes of the others."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from scripted import ScriptedLink, settle
from scripted_cloud import REPAIRED, TEXTS, ask, cloud, request

from picert.cloud.race import relay
from picert.config import PolicyConfig
from picert.messages import Cancel, Done, ExpandJob, Failure, Segment, TextDelta
from picert.simulate.clock import run
from picert.transport.events import PeerLeft, PeerMessage

SLOTS = 32  # enough for three candidates of each segment
GARBAGE = "And so on and so on and so on and so on and so on."


def jobs_of(link: ScriptedLink, index: int) -> list[tuple[str, ExpandJob]]:
    return [
        (edge, job)
        for edge, job in link.sent
        if isinstance(job, ExpandJob) and job.segments[0].index == index
    ]


def good(job: ExpandJob) -> str:
    return " " + TEXTS[job.segments[0].text]


async def test_candidates_go_to_different_edges_and_differ_in_their_seeds() -> None:
    def write(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, good(job))

    async with cloud(write, "e1", "e2", slots=SLOTS) as (service, _, link):
        _, done = await ask(service, request())
        for index in range(len(TEXTS)):
            sent = jobs_of(link, index)
            assert {edge for edge, _ in sent[:2]} == {"e1", "e2"}
            assert len({job.seed for _, job in sent}) == len(sent) > 1
            assert [job.candidate for _, job in sent] == list(range(len(sent)))
    assert all(segment.candidates > 1 for segment in done.segments)
    assert all(segment.confidence for segment in done.segments)


async def test_a_good_candidate_beats_garbage_that_came_first() -> None:
    def write(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, good(job) if job.candidate == 1 else GARBAGE)

    async with cloud(write, "e1", "e2", slots=SLOTS) as (service, _, _link):
        text, done = await ask(service, request())
    assert all(expansion in text for expansion in TEXTS.values())
    assert "and so on" not in text
    assert {segment.edge for segment in done.segments} <= {"e1", "e2"}


async def test_at_the_front_the_first_that_is_fit_is_shown_and_the_others_are_cancelled() -> None:
    def write_first(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if job.candidate == 0:
            link.write(edge, job, good(job))

    async with cloud(write_first, "e1", "e2", slots=SLOTS) as (service, _, link):
        text, done = await ask(service, request())
        await settle()
        cancelled = {(m.index, m.attempt) for _, m in link.sent if isinstance(m, Cancel)}
    assert all(expansion in text for expansion in TEXTS.values())
    assert {(0, 1), (1, 1), (2, 1)} <= cancelled
    assert not any(attempt == 0 for _, attempt in cancelled)
    assert done.route == "sketch"


@pytest.mark.parametrize(("patience_s", "is_in_time"), [(1.0, True), (0.4, False)])
def test_who_has_patience_waits_at_the_front_for_the_others_and_not_longer(
    patience_s: float, is_in_time: bool
) -> None:
    policy = PolicyConfig(w_cloud_check=0.1, cloud_check_s=patience_s)

    def write(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        later = 0.5 if job.candidate else 0.0
        loop = asyncio.get_running_loop()
        loop.call_later(later, link.write, edge, job, good(job))

    async def main() -> None:
        async with cloud(write, "e1", "e2", slots=SLOTS, policy=policy) as (service, loop, link):
            began = asyncio.get_running_loop().time()
            _, done = await ask(service, request())
            took_s = asyncio.get_running_loop().time() - began
            await settle()
            cancelled = {(m.index, m.attempt) for _, m in link.sent if isinstance(m, Cancel)}
            assert took_s == pytest.approx(0.5 if is_in_time else patience_s, abs=1e-6)
            assert ((0, 1) in cancelled) != is_in_time
            assert bool(loop.scored) == is_in_time
        assert done.route == "sketch"

    run(main)


async def test_behind_the_front_a_race_waits_for_the_better_text() -> None:
    held: list[tuple[str, ExpandJob]] = []
    poor = "It is said that people who do this for a long time are often content with it."
    better = "Seven hours of sleep are enough to let the mind recover from pressure and worry."

    def hold_the_first_segment(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if job.segments[0].index == 0:
            held.append((edge, job))
        elif job.segments[0].index == 1 and job.candidate == 0:
            link.write(edge, job, poor)
        else:
            link.write(edge, job, better if job.segments[0].index == 1 else good(job))

    async with cloud(hold_the_first_segment, "e1", "e2", slots=SLOTS) as (service, _, link):
        asking = asyncio.create_task(ask(service, request()))
        await settle()
        for edge, job in held:
            link.write(edge, job, good(job))
        text, _ = await asking
    assert better in text
    assert poor not in text


async def test_no_text_of_a_race_is_shown_before_it_is_chosen() -> None:
    def begin(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, good(job) + " And then", whole=False)

    async with cloud(begin, "e1", "e2", slots=SLOTS) as (service, _, _link):
        shown = []
        events = service.answer(request())
        reading = asyncio.create_task(anext(events))
        for _ in range(20):
            await settle()
            if not reading.done():
                break
            shown.append(reading.result())
            reading = asyncio.create_task(anext(events))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await events.aclose()
    text = "".join(event.text for event in shown if isinstance(event, TextDelta))
    assert text == "1. **Regular exercise**"


async def test_a_segment_whose_candidates_are_all_unfit_is_repaired() -> None:
    def write(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, GARBAGE if job.segments[0].index == 1 else good(job))

    async with cloud(write, "e1", "e2", slots=SLOTS) as (service, _, _link):
        text, done = await ask(service, request())
    assert REPAIRED in text
    assert [segment.edge == "cloud" for segment in done.segments] == [False, True, False]


async def test_without_repair_the_best_of_unfit_candidates_goes_out_and_is_told() -> None:
    def write(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, f"Sleep is {'sleep ' * job.candidate}enough sleep.")

    policy = PolicyConfig(repair=False)
    async with cloud(write, "e1", "e2", slots=SLOTS, policy=policy) as (service, _, _link):
        text, done = await ask(service, request())
    assert REPAIRED not in text
    assert "enough sleep." in text
    assert any("the best there is goes out" in reason for reason in done.reasons)


async def test_a_lost_edge_leaves_its_races_to_the_others() -> None:
    def lose_one(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if edge == "e1":
            if not any(isinstance(m, PeerLeft) for m in gone):
                gone.append(PeerLeft(edge, "killed"))
                link.happen(gone[0])
        else:
            link.write(edge, job, good(job))

    gone: list[PeerLeft] = []
    async with cloud(lose_one, "e1", "e2", slots=SLOTS) as (service, _, _link):
        text, done = await ask(service, request())
    assert all(expansion in text for expansion in TEXTS.values())
    assert {segment.edge for segment in done.segments} == {"e2"}


async def test_a_race_that_nobody_finishes_is_written_by_the_cloud() -> None:
    def fail(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        index = job.segments[0].index
        failure = Failure(
            request_id="r", index=index, attempt=job.attempt, code="no_engine", message="broken"
        )
        link.happen(PeerMessage(edge, failure))

    async with cloud(fail, "e1", "e2", slots=SLOTS) as (service, _, _link):
        text, done = await ask(service, request())
    assert text.count(REPAIRED) == len(TEXTS)
    assert any("broken" in reason for reason in done.reasons)


async def test_closing_the_answer_in_a_race_cancels_every_candidate() -> None:
    async with cloud(None, "e1", "e2", slots=SLOTS) as (service, _, link):
        events = service.answer(request())
        assert isinstance(await anext(events), TextDelta)
        await settle()
        await events.aclose()
        await settle()
        begun = {(m.segments[0].index, m.attempt) for _, m in link.sent if hasattr(m, "segments")}
        ended = {(m.index, m.attempt) for _, m in link.sent if isinstance(m, Cancel)}
        assert begun == ended != set()


async def test_many_races_leave_nothing_behind() -> None:
    def write(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, good(job))

    async with cloud(write, "e1", "e2", slots=SLOTS) as (service, _, _link):
        for n in range(100):
            events = service.answer(request(request_id=f"r{n}"))
            if n % 2:
                await anext(events)
                await events.aclose()
            else:
                assert [e async for e in events if isinstance(e, Done)]


async def test_text_that_is_stopped_is_counted_by_the_tokens_its_edge_told() -> None:
    class Circling:
        model = "small"

        async def __aiter__(self) -> AsyncIterator[TextDelta]:
            while True:
                yield TextDelta("r", 0, 0, GARBAGE, num_tokens=9)

    job = ExpandJob(
        request_id="r",
        attempt=0,
        question="Why?",
        outline=("Point",),
        segments=(Segment(0, "Point"),),
        max_tokens=99,
        deadline_s=9.0,
    )
    shown: list[str] = []
    expansion = await relay(Circling(), job, job.segments[0], shown.append)  # type: ignore[arg-type]
    assert expansion.finish_reason == "cancelled"
    assert expansion.completion_tokens == 9 * len(shown)
