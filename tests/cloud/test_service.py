"""CloudService on every route, with a scripted cloud model and scripted edges."""

import asyncio
from collections.abc import Sequence

import pytest
from scripted import ScriptedLink, settle
from scripted_cloud import DIRECT, REPAIRED, TEXTS, ask, cloud, request, script, write_all

from picert.config import PolicyConfig
from picert.errors import InvalidRequest, QueueFull, Unavailable
from picert.messages import (
    Cancel,
    Done,
    ExpandJob,
    Failure,
    Progress,
    SamplingParams,
    TextDelta,
)
from picert.transport.events import PeerLeft, PeerMessage


async def test_sketch_is_expanded_by_both_edges_and_merged_in_order() -> None:
    async with cloud(write_all, "e1", "e2") as (service, _, _link):
        text, done = await ask(service, request())
    positions = [text.index(part) for pair in TEXTS.items() for part in pair]
    assert positions == sorted(positions)
    assert done.route == "sketch"
    assert [segment.text for segment in done.segments] == list(TEXTS)
    assert {segment.edge for segment in done.segments} == {"e1", "e2"}
    assert done.usage.edge_completion_tokens > 0
    assert done.finish_reason == "stop"


async def test_edges_begin_while_the_cloud_still_sketches() -> None:
    async with cloud(None, "e1", "e2") as (service, loop, link):
        loop.permits = asyncio.Semaphore(3)  # two of three lines
        events = service.answer(request())
        assert isinstance(await anext(events), TextDelta)
        await settle()
        assert loop.open == {"r/sketch"}
        assert [m.segments[0].text for _, m in link.sent] == ["Regular exercise", "Enough sleep"]
        await events.aclose()


async def test_text_appears_in_sketch_order_whichever_edge_is_first() -> None:
    jobs: list[tuple[str, ExpandJob]] = []

    def hold_until_all(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        jobs.append((edge, job))
        if len(jobs) == len(TEXTS):
            for held_edge, held in reversed(jobs):
                write_all(held_edge, held, link)

    async with cloud(hold_until_all, "e1", "e2") as (service, _, _link):
        text, done = await ask(service, request())
    positions = [text.index(body) for body in TEXTS.values()]
    assert positions == sorted(positions)
    assert done.route == "sketch"


async def test_lost_edge_is_replaced_and_shown_text_is_not_repeated() -> None:
    first, rest = "Walking lowers tension at once.", "It also helps you to sleep."
    lost: list[str] = []

    def lose_first(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if job.segments[0].index > 0:
            write_all(edge, job, link)
        elif job.attempt == 0:
            lost.append(edge)
            link.write(edge, job, f" {first} And", whole=False)
            link.happen(PeerLeft(edge, "killed"))
        else:
            assert job.written.strip() == first
            link.write(edge, job, f" {rest}")

    async with cloud(lose_first, "e1", "e2") as (service, _, _link):
        text, done = await ask(service, request())
    assert text.count(first) == 1
    assert f"{first} {rest}" in text
    assert done.segments[0].edge not in lost
    assert done.segments[0].attempts == 2


async def test_cloud_writes_what_edges_cannot() -> None:
    def fail(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        index = job.segments[0].index
        if index == 1:
            failure = Failure(
                request_id="r", index=1, attempt=job.attempt, code="no_engine", message="broken"
            )
            link.happen(PeerMessage(edge, failure))
        else:
            write_all(edge, job, link)

    async with cloud(fail, "e1", "e2") as (service, _, _link):
        text, done = await ask(service, request())
    assert REPAIRED in text
    assert [segment.edge for segment in done.segments][1] == "cloud"
    assert any("broken" in reason for reason in done.reasons)


async def test_unfit_expansion_is_repaired() -> None:
    def copy_heading(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if job.segments[0].index == 2:
            link.write(edge, job, "")
        else:
            write_all(edge, job, link)

    async with cloud(copy_heading, "e1", "e2") as (service, _, _link):
        text, done = await ask(service, request())
    assert REPAIRED in text
    assert done.segments[2].edge == "cloud"


async def test_without_repair_an_unfit_text_goes_out() -> None:
    def repeat_heading(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if job.segments[0].index == 0:
            return  # the first segment never ends, so that nothing after it is shown
        text = "Sleep is enough sleep." if job.segments[0].index == 1 else ""
        link.write(edge, job, text)

    def end_first(link: ScriptedLink) -> None:
        edge, job = next((e, m) for e, m in link.sent if m.segments[0].index == 0)
        write_all(edge, job, link)

    policy = PolicyConfig(repair=False)
    async with cloud(repeat_heading, "e1", "e2", policy=policy) as (service, _, link):
        asking = asyncio.create_task(ask(service, request()))
        await settle()
        end_first(link)
        text, done = await asking
    assert "Sleep is enough sleep." in text
    assert [segment.edge == "cloud" for segment in done.segments] == [False, False, True]
    assert any("adds nothing" in reason for reason in done.reasons)


async def test_cloud_expands_its_own_sketch_where_that_is_the_mode() -> None:
    policy = PolicyConfig(mode="sot")
    async with cloud(None, "e1", policy=policy) as (service, _, link):
        text, done = await ask(service, request("auto"))
        assert link.sent == []
    assert (text.count(REPAIRED), done.route) == (len(TEXTS), "sketch")
    assert {segment.edge for segment in done.segments} == {"cloud"}


async def test_without_eager_dispatch_edges_wait_for_the_whole_sketch() -> None:
    policy = PolicyConfig(eager_dispatch=False)
    async with cloud(write_all, "e1", "e2", policy=policy) as (service, loop, link):
        loop.permits = asyncio.Semaphore(3)  # two of three lines
        asking = asyncio.create_task(ask(service, request()))
        await settle()
        assert link.sent == []
        loop.permits.release()
        _, done = await asking
    assert [segment.edge == "cloud" for segment in done.segments] == [False] * len(TEXTS)


async def test_text_that_goes_round_in_circles_is_stopped_at_its_edge() -> None:
    def repeat(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if job.segments[0].index == 1:
            link.write(edge, job, f" {TEXTS['Enough sleep']}" * 9, whole=False)
        else:
            write_all(edge, job, link)

    async with cloud(repeat, "e1", "e2") as (service, _, link):
        text, done = await ask(service, request())
        assert [m.index for _, m in link.sent if isinstance(m, Cancel)] == [1]
    assert text.count(TEXTS["Enough sleep"]) == 1
    assert done.segments[1].model == "tiny"
    assert done.segments[1].tokens > 0


async def test_all_edges_gone_mid_answer_still_gives_a_complete_answer() -> None:
    def vanish(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if len(link.sent) == 1:
            link.happen(PeerLeft(edge, "power cut"))

    async with cloud(vanish, "e1") as (service, _, _link):
        text, done = await ask(service, request())
    assert text.count(REPAIRED) == len(TEXTS)
    assert {segment.edge for segment in done.segments} == {"cloud"}


async def test_route_that_the_policy_chose_tells_what_it_was_chosen_from() -> None:
    async with cloud(write_all, "e1", "e2") as (service, _, _link):
        _, done = await ask(service, request("auto"))
    assert done.route == "sketch"
    assert [told.split()[0].rstrip(":") for told in done.candidates[:3]] == [
        *("direct", "edge_only", "sketch")
    ]
    assert any(reason.startswith("price") for reason in done.reasons)


async def test_plan_sees_the_jobs_that_open_sketches_will_give() -> None:
    async with cloud(None, "e1") as (service, loop, link):
        loop.permits = asyncio.Semaphore(0)  # no line is ever written
        answers, routes = [], []
        for n in range(6):
            answers.append(service.answer(request("auto", request_id=f"r{n}", progress=True)))
            routes.append((await anext(answers[-1])).text)
        assert link.sent == []
        assert routes[0] == "sketch"
        assert routes[-1] == "direct"
        for answer in answers:
            await answer.aclose()


async def test_what_a_sketch_promised_ends_with_it() -> None:
    left: list[int] = []
    async with cloud(write_all, "e1", "e2") as (service, _, _link):
        service.on_end = lambda draft: left.append(draft.promised_jobs)
        await ask(service, request())
    assert left == [0]


async def test_sketch_with_one_point_falls_back_to_a_direct_answer() -> None:
    async with cloud(write_all, "e1", says=script([" Only one point\n"])) as (service, _, link):
        text, done = await ask(service, request())
        assert link.sent == []
    assert (text, done.route) == ("1. **Only one point**" + "".join(DIRECT), "fallback")


async def test_first_heading_is_shown_token_by_token() -> None:
    sketch = [" Regular", " exer", "cise", "\n", "2. Enough sleep\n"]
    async with cloud(None, "e1", says=script(sketch)) as (service, loop, link):
        loop.permits = asyncio.Semaphore(1)
        events, shown = service.answer(request()), []
        for _ in range(4):
            shown.append((await anext(events)).text)
            loop.permits.release()
        assert link.sent == []
        assert shown == ["1. **Regular", " exer", "cise", "**"]
        await events.aclose()


async def test_heading_behind_a_finished_segment_is_shown_while_it_is_written() -> None:
    sketch = [" Regular exercise\n", "2. Enough sleep\n", "3. Time", " with friends\n"]
    async with cloud(write_all, "e1", says=script(sketch)) as (service, loop, _link):
        loop.permits = asyncio.Semaphore(3)
        events, shown = service.answer(request()), ""
        while not shown.endswith("3. **Time"):
            shown += (await anext(events)).text
        assert loop.open == {"r/sketch"}
        assert all(text in shown for text in list(TEXTS.values())[:2])
        await events.aclose()


async def test_what_was_shown_of_a_line_that_the_budget_cuts_is_a_point() -> None:
    sketch = [" Regular exercise\n", "2. Enough sleep\n", "3. Time with"]
    asked = request(sampling=SamplingParams(max_tokens=2000))

    def write(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        texts = {**TEXTS, "Time with": "Friends who listen make worries smaller."}
        link.write(edge, job, f" {texts[job.segments[0].text]}")

    async with cloud(write, "e1", says=script(sketch)) as (service, loop, _link):
        loop.last_reason, loop.permits = "length", asyncio.Semaphore(2)
        events, shown = service.answer(asked), ""
        while TEXTS["Enough sleep"] not in shown:
            shown += (await anext(events)).text
        loop.permits.release()
        shown += "".join([e.text async for e in events if isinstance(e, TextDelta)])
    assert shown.endswith("\n\n3. **Time with**: Friends who listen make worries smaller.")


async def test_what_nobody_saw_of_a_line_that_the_budget_cuts_is_dropped() -> None:
    sketch = [" Regular exercise\n", "2. Enough sleep\n", "3. Time with"]
    async with cloud(None, "e1", says=script(sketch)) as (service, loop, link):
        loop.last_reason, link.reply = "length", None
        asking = asyncio.create_task(ask(service, request()))
        await settle()
        assert [job.segments[0].text for _, job in link.sent] == list(TEXTS)[:2]
        for edge, job in link.sent:
            write_all(edge, job, link)
        text, _ = await asking
    assert "3." not in text


async def test_without_edges_the_answer_is_direct_and_says_why() -> None:
    async with cloud(None) as (service, _, _link):
        text, done = await ask(service, request("auto"))
    assert (text, done.route) == ("".join(DIRECT), "direct")
    assert any("edge" in reason for reason in done.reasons)


async def test_edge_only_answer_comes_from_an_edge() -> None:
    def answer(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, "Breathe slowly.")

    async with cloud(answer, "e1") as (service, _, _link):
        text, done = await ask(service, request("edge_only"))
    assert (text, done.route, done.segments[0].edge) == ("Breathe slowly.", "edge_only", "e1")


async def test_edge_only_answer_that_max_tokens_cuts_is_its_edges_and_counted() -> None:
    def go_on(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, "Breathe slowly and often.", whole=False)

    asked = request("edge_only", sampling=SamplingParams(max_tokens=10))
    async with cloud(go_on, "e1") as (service, _, link):
        text, done = await ask(service, asked)
        assert [m for _, m in link.sent if isinstance(m, Cancel)]
    assert (text, done.route, done.finish_reason) == ("Breathe sl", "edge_only", "length")
    assert [segment.edge for segment in done.segments] == ["e1"]
    assert done.usage.edge_completion_tokens == 4  # pieces that came, of a token each


async def test_edge_only_answer_is_continued_by_the_cloud_when_its_edge_is_lost() -> None:
    def begin(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, "Breathe", whole=False)
        link.happen(PeerLeft(edge, "killed"))

    async with cloud(begin, "e1") as (service, loop, _link):
        text, done = await ask(service, request("edge_only"))
        assert loop.prompts["answer"].endswith("Breathe")
    assert (text, done.route) == ("Breathe" + "".join(DIRECT), "fallback")


async def test_closing_the_answer_cancels_the_cloud_and_every_edge() -> None:
    async with cloud(None, "e1", "e2") as (service, _, link):
        events = service.answer(request())
        assert isinstance(await anext(events), TextDelta)
        await settle()
        await events.aclose()
        await settle()
        jobs = {m.segments[0].index for _, m in link.sent if isinstance(m, ExpandJob)}
        assert jobs
        assert {m.index for _, m in link.sent if isinstance(m, Cancel)} == jobs


async def test_answer_ends_at_the_users_token_limit() -> None:
    limited = request(sampling=SamplingParams(max_tokens=150))
    async with cloud(write_all, "e1", "e2") as (service, _, _link):
        text, done = await ask(service, limited)
    assert 75 < len(text) == done.completion_tokens <= 150
    assert text.endswith((".", "**"))  # a sentence or a heading, not the middle of one
    assert done.finish_reason == "length"


async def test_expansions_that_max_tokens_cuts_are_their_edges_and_counted() -> None:
    words = (
        " Walk every day, and on some days run, as far as your legs will carry you. Then rest as "
        "long as you like, with a book or with a friend at your side. And"
    )

    def go_on(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        link.write(edge, job, words, whole=False)

    limited = request(sampling=SamplingParams(max_tokens=120))
    async with cloud(go_on, "e1", "e2") as (service, _, link):
        text, done = await ask(service, limited)
        first, *others = [job for _, job in link.sent if isinstance(job, ExpandJob)]
        writer = link.sent[0][0]
    num_told = (1 + len(others)) * len(words.split(" "))  # pieces, of a token each
    assert (done.finish_reason, done.usage.edge_completion_tokens) == ("length", num_told)
    (cut,) = done.segments  # the one in which the answer ends
    assert (cut.text, cut.edge, cut.model) == (first.segments[0].text, writer, "tiny")
    assert text.split("**: ")[1] in words
    assert text.endswith("will carry you.")
    assert cut.expansion in words


async def test_tokens_of_an_edge_that_was_lost_are_counted() -> None:
    def lose_first(edge: str, job: ExpandJob, link: ScriptedLink) -> None:
        if job.attempt == 0 and job.segments[0].index == 0:
            link.write(edge, job, " One two three", whole=False)
            link.happen(PeerLeft(edge, "killed"))
        else:
            write_all(edge, job, link)

    async with cloud(lose_first, "e1", "e2") as (service, _, _link):
        _, done = await ask(service, request())
    whole = sum(len(text.split()) for text in TEXTS.values())
    assert done.usage.edge_completion_tokens == whole + 4  # pieces


async def test_progress_tells_of_plan_sketch_expansions_and_ends() -> None:
    async with cloud(write_all, "e1", "e2") as (service, _, _link):
        events = [event async for event in service.answer(request(progress=True))]
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert stages[0] == "plan"
    assert stages.count("sketch") == len(TEXTS)
    assert stages.count("segment_done") == len(TEXTS)


async def test_engine_failure_ends_the_answer_with_its_error() -> None:
    def broken(part: str) -> Sequence[str]:
        raise Unavailable(f"the engine failed at {part}")

    async with cloud(None, says=broken) as (service, _, _link):
        with pytest.raises(Unavailable, match="answer"):
            await ask(service, request("direct"))


async def test_requests_over_the_limit_are_refused() -> None:
    async with cloud(None, max_num_requests=1) as (service, loop, _link):
        loop.permits = asyncio.Semaphore(0)
        events = service.answer(request("direct"))
        reading = asyncio.create_task(anext(events))
        await settle()
        with pytest.raises(QueueFull, match="limit is 1"):
            await ask(service, request("direct", "other"))
        loop.permits.release()
        await reading
        await events.aclose()


async def test_request_id_in_flight_is_refused() -> None:
    async with cloud(None) as (service, loop, _link):
        loop.permits = asyncio.Semaphore(0)
        events = service.answer(request("direct"))
        reading = asyncio.create_task(anext(events))
        await settle()
        with pytest.raises(InvalidRequest, match="in flight"):
            await ask(service, request("direct"))
        loop.permits.release()
        await reading
        await events.aclose()


async def test_five_hundred_answers_leave_nothing_behind() -> None:
    async with cloud(write_all, "e1", "e2") as (service, _, _link):
        for n in range(500):
            events = service.answer(request(request_id=f"r{n}"))
            if n % 2:
                await anext(events)
                await events.aclose()
            else:
                assert [e async for e in events if isinstance(e, Done)]
