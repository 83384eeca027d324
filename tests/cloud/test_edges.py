"""EdgePool over a scripted link: who gets a job, what a loss does, and that no table keeps an
entry.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
from scripted import ScriptedLink, expansion, hello, settle

from picert.cloud.edges import EdgePool
from picert.errors import EdgeLost, EdgeNotFound, PicertError, QueueFull
from picert.messages import (
    Cancel,
    ExpandJob,
    Expansion,
    Failure,
    Segment,
    TextDelta,
)
from picert.transport.events import PeerDraining, PeerJoined, PeerLeft, PeerMessage


def job(index: int = 0, attempt: int = 0, deadline_s: float = 10.0) -> ExpandJob:
    return ExpandJob(
        request_id="r",
        attempt=attempt,
        question="q",
        outline=("a", "b"),
        segments=(Segment(index, "a"),),
        max_tokens=8,
        deadline_s=deadline_s,
    )


@asynccontextmanager
async def pool_with(*names: str, slots: int = 1) -> AsyncIterator[tuple[EdgePool, ScriptedLink]]:
    link = ScriptedLink()
    pool = EdgePool(link)  # type: ignore[arg-type]
    serving = asyncio.create_task(pool.serve())
    link.join(*names, slots=slots)
    await settle()
    yield pool, link
    pool.self_check()
    assert pool.num_open == 0
    link.happen(None)
    await serving


async def test_pieces_arrive_in_order_and_end_with_the_expansion() -> None:
    async with pool_with("e") as (pool, link), pool.run(job()) as assignment:
        link.happen(PeerMessage("e", TextDelta("r", 0, 0, "do")))
        link.happen(PeerMessage("e", expansion()))
        pieces = [piece async for piece in assignment]
        assert [type(piece) for piece in pieces] == [TextDelta, Expansion]


async def test_jobs_go_to_different_edges_and_wait_when_slots_are_taken() -> None:
    async with (
        pool_with("e1", "e2") as (pool, link),
        pool.run(job(0)) as a,
        pool.run(job(1)) as b,
        pool.run(job(2)) as c,
    ):
        assert {a.edge, b.edge} == {"e1", "e2"}
        assert c.edge is None
        link.happen(PeerMessage(str(a.edge), expansion(0)))
        assert len([piece async for piece in a]) == 1


async def test_waiting_job_starts_when_a_slot_is_free() -> None:
    async with pool_with("e") as (pool, link):
        async with pool.run(job(0)):
            waiting = pool.run(job(1))
            second = await waiting.__aenter__()
            assert second.edge is None
        assert second.edge == "e"
        await waiting.__aexit__(None, None, None)
        assert [type(m) for _, m in link.sent] == [ExpandJob, Cancel, ExpandJob, Cancel]


async def test_lost_edge_ends_its_jobs_with_edge_lost() -> None:
    async with pool_with("e1", "e2") as (pool, link), pool.run(job()) as assignment:
        link.happen(PeerLeft(str(assignment.edge), "8 beats missed"))
        with pytest.raises(EdgeLost, match="8 beats missed"):
            _ = [piece async for piece in assignment]
    assert pool.num_lost == 1


async def test_waiting_job_ends_when_the_last_edge_leaves() -> None:
    async with pool_with("e") as (pool, link), pool.run(job(0)), pool.run(job(1)) as second:
        link.happen(PeerLeft("e", "gone"))
        with pytest.raises(EdgeLost, match="no edge"):
            _ = [piece async for piece in second]


async def test_job_without_any_edge_ends_at_once() -> None:
    async with pool_with() as (pool, _), pool.run(job()) as assignment:
        with pytest.raises(EdgeLost, match="no edge"):
            _ = [piece async for piece in assignment]


async def test_late_edge_is_given_up_at_the_job_deadline() -> None:
    async with pool_with("e") as (pool, _), pool.run(job(deadline_s=0.05)) as assignment:
        with pytest.raises(EdgeLost, match="did not finish"):
            _ = [piece async for piece in assignment]


async def test_failure_of_the_edge_becomes_its_error() -> None:
    failure = Failure(request_id="r", index=0, attempt=0, code="queue_full", message="busy")
    async with pool_with("e") as (pool, link), pool.run(job()) as assignment:
        link.happen(PeerMessage("e", failure))
        with pytest.raises(QueueFull, match="e: busy"):
            _ = [piece async for piece in assignment]


async def test_second_try_prefers_another_edge_but_takes_the_only_one() -> None:
    async with (
        pool_with("e1", "e2") as (pool, _),
        pool.run(job(attempt=1), avoid=["e1"]) as elsewhere,
    ):
        assert elsewhere.edge == "e2"
    async with pool_with("e1") as (pool, _), pool.run(job(attempt=1), avoid=["e1"]) as again:
        assert again.edge == "e1"


async def test_draining_and_silent_edges_get_no_jobs() -> None:
    async with pool_with("e1", "e2", "e3") as (pool, link):
        link.happen(PeerDraining("e1", "update"))
        link.silent.add("e2")
        await settle()
        async with pool.run(job()) as assignment:
            assert assignment.edge == "e3"
        assert pool.load(0).num_edges == 1


async def test_words_of_another_edge_or_attempt_are_ignored() -> None:
    async with pool_with("e1", "e2") as (pool, link), pool.run(job(attempt=1)) as assignment:
        other = "e2" if assignment.edge == "e1" else "e1"
        link.happen(PeerMessage(other, expansion(attempt=1)))
        link.happen(PeerMessage(str(assignment.edge), expansion(attempt=0)))
        link.happen(PeerMessage(str(assignment.edge), expansion(attempt=1)))
        assert len([piece async for piece in assignment]) == 1


async def test_unsendable_job_counts_as_lost() -> None:
    async with pool_with("e") as (pool, link):
        link.full.add("e")
        async with pool.run(job()) as assignment:
            with pytest.raises(EdgeLost, match="could not be given"):
                _ = [piece async for piece in assignment]


async def test_rejoined_edge_starts_with_an_empty_account() -> None:
    async with pool_with("e") as (pool, link), pool.run(job()):
        link.happen(PeerLeft("e", "restart"))
        link.happen(PeerJoined("e", hello("e")))
        await settle()
        assert [view.num_in_flight for view in pool.roster.views()] == [0]


async def test_thousand_jobs_leave_no_entry_behind() -> None:
    async with pool_with("e1", "e2", slots=4) as (pool, link):
        for index in range(1000):
            async with pool.run(job(index)) as assignment:
                if index % 3:
                    link.happen(PeerMessage(str(assignment.edge), expansion(index)))
                    assert len([piece async for piece in assignment]) == 1
        assert pool.num_open == 0
        assert [view.num_in_flight for view in pool.roster.views()] == [0, 0]


async def test_neighbours_that_wait_go_out_as_one_job() -> None:
    async with pool_with("e") as (pool, link), AsyncExitStack() as later:
        async with pool.run(job(0)):
            second = await later.enter_async_context(pool.run(job(1)))
            third = await later.enter_async_context(pool.run(job(2)))
            assert (second.edge, third.edge) == (None, None)
        sent = [m for _, m in link.sent if isinstance(m, ExpandJob)]
        assert [[s.index for s in m.segments] for m in sent] == [[0], [1, 2]]
        assert sent[1].deadline_s == 20.0
        link.happen(PeerMessage("e", expansion(1)))
        link.happen(PeerMessage("e", TextDelta("r", 2, 0, "do")))
        link.happen(PeerMessage("e", expansion(2)))
        assert [type(piece) async for piece in second] == [Expansion]
        assert [type(piece) async for piece in third] == [TextDelta, Expansion]


async def test_place_of_a_group_is_free_when_its_last_text_is_over() -> None:
    async with pool_with("e") as (pool, _), AsyncExitStack() as later:
        async with pool.run(job(0)):
            second = await later.enter_async_context(pool.run(job(1)))
            async with pool.run(job(2)):
                pass  # given up while it waited
            third = await later.enter_async_context(pool.run(job(3)))
        assert (second.edge, third.edge) == ("e", None)
        assert [view.num_in_flight for view in pool.roster.views()] == [1]


async def test_lost_edge_ends_every_text_of_a_group() -> None:
    async with pool_with("e") as (pool, link), AsyncExitStack() as later:
        async with pool.run(job(0)):
            waiting = [await later.enter_async_context(pool.run(job(n))) for n in (1, 2)]
        link.happen(PeerLeft("e", "killed"))
        for assignment in waiting:
            with pytest.raises(EdgeLost, match="killed"):
                _ = [piece async for piece in assignment]


async def test_edge_ten_times_slower_gets_no_job_while_waiting_is_quicker() -> None:
    async with pool_with() as (pool, link):
        link.happen(PeerJoined("fast", hello("fast", step_s=0.02)))
        link.happen(PeerJoined("slow", hello("slow", step_s=0.2)))
        await settle()
        async with AsyncExitStack() as stack:
            jobs = [await stack.enter_async_context(pool.run(job(n * 2))) for n in range(4)]
            assert [assignment.edge for assignment in jobs] == ["fast", None, None, None]


async def test_text_said_twice_or_after_its_end_counts_once() -> None:
    async with pool_with("e") as (pool, link), pool.run(job()) as assignment:
        for message in (expansion(), expansion(), TextDelta("r", 0, 0, "late")):
            link.happen(PeerMessage("e", message))
        assert [type(piece) async for piece in assignment] == [Expansion]
        link.happen(PeerMessage("e", expansion()))
        await settle()
        assert pool.num_open == 1


async def test_words_on_unknown_jobs_change_nothing() -> None:
    failure = Failure(request_id="x", attempt=7, code="no_engine", message="?")
    async with pool_with("e") as (pool, link), pool.run(job()) as assignment:
        for message in (expansion(99), TextDelta("other", 0, 0, "?"), failure):
            link.happen(PeerMessage("e", message))
        link.happen(PeerMessage("e", expansion()))
        assert [type(piece) async for piece in assignment] == [Expansion]


async def test_numbers_that_cannot_be_true_do_not_make_an_edge_fast() -> None:
    lie = msgspec.structs.replace(
        expansion(), prompt_tokens=-5, cached_tokens=10**9, completion_tokens=10**9, seconds=-1.0
    )
    async with pool_with("e") as (pool, link):
        speed = pool.speed_of("e")
        assert speed is not None
        before = speed.decode_seconds(10)
        async with pool.run(job()) as assignment:
            link.happen(PeerMessage("e", lie))
            assert len([piece async for piece in assignment]) == 1
        assert speed.decode_seconds(10) == before


async def test_clock_that_jumps_back_and_forth_loses_no_job() -> None:
    times = iter([5.0, 1e9, 3.0, -1e6, 7.0] * 1000)
    link = ScriptedLink()
    pool = EdgePool(link, clock=lambda: next(times))  # type: ignore[arg-type]
    serving = asyncio.create_task(pool.serve())
    link.join("e1", "e2")
    await settle()
    for index in range(20):
        async with pool.run(job(index, deadline_s=1e10)) as assignment:
            link.happen(PeerMessage(str(assignment.edge), expansion(index)))
            assert len([piece async for piece in assignment]) == 1
    pool.self_check()
    link.happen(None)
    await serving


async def failed(pool: EdgePool, link: ScriptedLink, attempt: int, code: str = "no_engine") -> None:
    """One job that its edge fails at."""
    async with pool.run(job(attempt=attempt)) as assignment:
        edge = str(assignment.edge)
        failure = Failure(request_id="r", attempt=attempt, code=code, message="no", index=0)
        link.happen(PeerMessage(edge, failure))
        with pytest.raises(PicertError):
            _ = [piece async for piece in assignment]


async def test_edge_that_fails_again_and_again_gets_a_pause() -> None:
    async with pool_with("e") as (pool, link):
        for attempt in range(3):
            await failed(pool, link, attempt)
        assert not pool.roster.views()[0].is_available
        assert pool.load(0).num_edges == 0
        assert pool.num_failed == 3
        async with pool.run(job(attempt=9)) as assignment:
            with pytest.raises(EdgeLost, match="no edge is available"):
                _ = [piece async for piece in assignment]


async def test_job_that_no_edge_could_do_is_not_held_against_one() -> None:
    async with pool_with("e") as (pool, link):
        for attempt in range(5):
            await failed(pool, link, attempt, code="context_length_exceeded")
        assert pool.roster.views()[0].is_available


async def test_drained_edge_gets_nothing_new_and_keeps_what_it_has() -> None:
    async with pool_with("e1", "e2") as (pool, link), pool.run(job(0)) as first:
        drained = str(first.edge)
        pool.roster.drain(drained)
        async with pool.run(job(1)) as second:
            assert second.edge not in (None, drained)
        link.happen(PeerMessage(drained, expansion()))
        assert len([piece async for piece in first]) == 1
        told = {edge["name"]: edge for edge in pool.roster.report()}
        assert told[drained]["draining"]
        assert not told[drained]["available"]


async def test_edge_that_is_not_there_cannot_be_drained() -> None:
    async with pool_with("e") as (pool, _):
        with pytest.raises(EdgeNotFound, match="not connected"):
            pool.roster.drain("nobody")


async def test_edge_that_was_never_tried_is_hoped_to_be_as_fast_as_its_like() -> None:
    async with pool_with("a", "b", slots=2) as (pool, link), AsyncExitStack() as stack:
        async with pool.run(job()) as first:
            assert first.edge == "a"
            fast = msgspec.structs.replace(expansion(), completion_tokens=8, seconds=0.01)
            for _ in range(2):
                link.happen(PeerMessage("a", fast))
            _ = [piece async for piece in first]
        hoped, learned = pool.speed_of("b"), pool.speed_of("a")
        assert hoped is not None
        assert learned is not None
        assert hoped.decode_seconds(1) == learned.decode_seconds(1) < 0.1
        jobs = [await stack.enter_async_context(pool.run(job(n * 2))) for n in range(2)]
        assert {assignment.edge for assignment in jobs} == {"a", "b"}
        link.happen(PeerJoined("c", hello("c", 2)))
        await settle()
        late = pool.speed_of("c")
        assert late is not None
        assert late.decode_seconds(1) == learned.decode_seconds(1)


async def test_what_is_hoped_of_an_edge_ends_with_its_first_text() -> None:
    async with pool_with("a", "b", slots=2) as (pool, link):
        for edge, seconds in (("a", 0.01), ("b", 60.0), ("a", 0.01)):
            others = [name for name in ("a", "b") if name != edge]
            async with pool.run(job(), avoid=others) as assignment:
                told = msgspec.structs.replace(expansion(), completion_tokens=8, seconds=seconds)
                link.happen(PeerMessage(edge, told))
                _ = [piece async for piece in assignment]
        slow, fast = pool.speed_of("b"), pool.speed_of("a")
        assert slow is not None
        assert fast is not None
        assert slow.decode_seconds(1) > fast.decode_seconds(1)
