"""EdgeWorker with a scripted engine loop: every job ends in one result, cancelled ones in none."""

import asyncio
from collections.abc import Sequence

import pytest
from scripted import ScriptedLoop, settle

from picert.edge.worker import EdgeWorker
from picert.errors import ContextLengthExceeded, EdgeLost
from picert.messages import (
    AnswerJob,
    Cancel,
    ChatMessage,
    ExpandJob,
    Expansion,
    Failure,
    SamplingParams,
    Segment,
    TextDelta,
)
from picert.pice.prompts import load_prompts


class Outbox:
    """Stands for the edge's end of the link."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.is_down = False

    async def send(self, message: object) -> None:
        if self.is_down:
            raise EdgeLost("the link is down")
        self.sent.append(message)


def says(part: str) -> Sequence[str]:
    return ["Two", " words"]


def make_worker(loop: ScriptedLoop) -> tuple[EdgeWorker, Outbox]:
    outbox = Outbox()
    return EdgeWorker({"tiny": loop}, load_prompts(), outbox), outbox  # type: ignore[dict-item]


def job(*indices: int, attempt: int = 0, **fields: object) -> ExpandJob:
    outline = tuple(f"Point {n}" for n in range(4))
    return ExpandJob(
        request_id="r",
        attempt=attempt,
        question="Why?",
        outline=outline,
        segments=tuple(Segment(index, outline[index]) for index in indices),
        max_tokens=8,
        deadline_s=9.0,
        **fields,
    )


async def finish(worker: EdgeWorker) -> None:
    await worker.drain(5.0)
    await settle()
    assert worker.num_running == 0


async def test_text_is_streamed_and_ends_with_an_expansion() -> None:
    worker, outbox = make_worker(ScriptedLoop(says))
    await worker.take(job(1))
    await finish(worker)
    *deltas, last = outbox.sent
    assert deltas == [TextDelta("r", 1, 0, "Two"), TextDelta("r", 1, 0, " words")]
    assert isinstance(last, Expansion)
    assert (last.text, last.index, last.completion_tokens) == ("Two words", 1, 2)
    assert (last.mean_logprob, last.finish_reason, last.model) == (-1.0, "stop", "tiny")


async def test_a_piece_tells_of_the_tokens_behind_it_those_without_text_too() -> None:
    worker, outbox = make_worker(ScriptedLoop(lambda part: ["", "", "Two", " words"]))
    await worker.take(job(1))
    await finish(worker)
    *deltas, last = outbox.sent
    assert [(d.text, d.num_tokens) for d in deltas] == [("Two", 3), (" words", 1)]  # type: ignore[attr-defined]
    assert last.completion_tokens == 4  # type: ignore[attr-defined]


async def test_each_segment_of_a_job_has_its_own_expansion() -> None:
    worker, outbox = make_worker(ScriptedLoop(says))
    await worker.take(job(0, 2))
    await finish(worker)
    assert {m.index for m in outbox.sent if isinstance(m, Expansion)} == {0, 2}


async def test_new_attempt_goes_on_where_the_shown_text_ends() -> None:
    loop = ScriptedLoop(lambda part: ["More."])
    worker, _ = make_worker(loop)
    await worker.take(job(1, attempt=1, written="Shown before."))
    await finish(worker)
    assert loop.prompts["1"].endswith("Shown before.")


async def test_whole_answer_is_the_expansion_of_index_zero() -> None:
    worker, outbox = make_worker(ScriptedLoop(says))
    await worker.take(
        AnswerJob(
            request_id="r",
            attempt=0,
            messages=(ChatMessage("user", "Hello"),),
            sampling=SamplingParams(),
            deadline_s=9.0,
        )
    )
    await finish(worker)
    assert isinstance(outbox.sent[-1], Expansion)
    assert outbox.sent[-1].index == 0


@pytest.mark.parametrize(("index", "left"), [(1, {2}), (None, set())])
async def test_cancel_ends_what_it_names_and_nothing_else(
    index: int | None, left: set[int]
) -> None:
    loop = ScriptedLoop(says)
    loop.permits = asyncio.Semaphore(0)
    worker, outbox = make_worker(loop)
    await worker.take(job(1, 2))
    await settle()
    await worker.take(Cancel("r", index))
    assert {int(name.split("/")[1]) for name in loop.open} == left
    for _ in range(4):
        loop.permits.release()
    await finish(worker)
    assert {m.index for m in outbox.sent if isinstance(m, Expansion)} == left


async def test_cancel_of_another_request_changes_nothing() -> None:
    worker, outbox = make_worker(ScriptedLoop(says))
    await worker.take(job(1))
    await worker.take(Cancel("other"))
    await finish(worker)
    assert isinstance(outbox.sent[-1], Expansion)


async def test_engine_refusal_becomes_a_failure() -> None:
    def refuse(part: str) -> Sequence[str]:
        raise ContextLengthExceeded("prompt has 900 tokens, the limit is 256")

    worker, outbox = make_worker(ScriptedLoop(refuse))
    await worker.take(job(3))
    await finish(worker)
    (failure,) = outbox.sent
    assert isinstance(failure, Failure)
    assert (failure.index, failure.code) == (3, "context_length_exceeded")


async def test_unknown_model_is_a_failure_that_names_those_there_are() -> None:
    worker, outbox = make_worker(ScriptedLoop(says))
    await worker.take(job(0, model="huge"))
    (failure,) = outbox.sent
    assert isinstance(failure, Failure)
    assert failure.code == "model_not_found"
    assert "tiny" in failure.message


@pytest.mark.parametrize(("attempt", "left"), [(0, [1]), (1, [0]), (None, [])])
async def test_attempts_at_one_segment_run_side_by_side_and_end_apart(
    attempt: int | None, left: list[int]
) -> None:
    loop = ScriptedLoop(says)
    loop.permits = asyncio.Semaphore(0)
    worker, outbox = make_worker(loop)
    await worker.take(job(1))
    await worker.take(job(1, attempt=1))
    await settle()
    await worker.take(Cancel("r", 1, attempt))
    for _ in range(4):
        loop.permits.release()
    await finish(worker)
    assert [m.attempt for m in outbox.sent if isinstance(m, Expansion)] == left


async def test_job_that_comes_twice_is_written_once() -> None:
    loop = ScriptedLoop(says)
    loop.permits = asyncio.Semaphore(0)
    worker, outbox = make_worker(loop)
    await worker.take(job(1))
    await settle()
    await worker.take(job(1))
    for _ in range(4):
        loop.permits.release()
    await finish(worker)
    assert len([m for m in outbox.sent if isinstance(m, Expansion)]) == 1


async def test_lost_link_ends_texts_quietly() -> None:
    loop = ScriptedLoop(says)
    worker, outbox = make_worker(loop)
    outbox.is_down = True
    await worker.take(job(0, 1))
    await finish(worker)
    assert (outbox.sent, loop.open) == ([], set())


async def test_drain_cancels_what_does_not_finish_in_time() -> None:
    loop = ScriptedLoop(says)
    loop.permits = asyncio.Semaphore(0)
    worker, _ = make_worker(loop)
    await worker.take(job(0))
    await settle()
    await worker.drain(0.01)
    assert (worker.num_running, loop.open) == (0, set())


async def test_segments_of_one_job_are_written_one_after_the_other() -> None:
    loop = ScriptedLoop(says)
    loop.permits = asyncio.Semaphore(0)
    worker, outbox = make_worker(loop)
    await worker.take(job(1, 2))
    await settle()
    assert loop.open == {"r/1/0"}
    for _ in range(4):
        loop.permits.release()
    await finish(worker)
    assert [m.index for m in outbox.sent if isinstance(m, Expansion)] == [1, 2]


async def test_segments_of_different_jobs_are_written_side_by_side() -> None:
    loop = ScriptedLoop(says)
    loop.permits = asyncio.Semaphore(0)
    worker, _ = make_worker(loop)
    await worker.take(job(1))
    await worker.take(job(2))
    await settle()
    assert loop.open == {"r/1/0", "r/2/0"}
    await worker.drain(0.0)


async def test_a_failed_segment_does_not_stop_those_after_it() -> None:
    def refuse_first(part: str) -> Sequence[str]:
        if part == "1":
            raise ContextLengthExceeded("prompt has 900 tokens, the limit is 256")
        return ["Fine."]

    worker, outbox = make_worker(ScriptedLoop(refuse_first))
    await worker.take(job(1, 2))
    await finish(worker)
    ends = [m for m in outbox.sent if isinstance(m, Failure | Expansion)]
    assert [(type(m), m.index) for m in ends] == [(Failure, 1), (Expansion, 2)]
