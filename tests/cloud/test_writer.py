"""CloudWriter: what is known of the cloud's open texts, and that nothing of it is kept."""

import asyncio

import pytest
from scripted import ScriptedLoop, settle

from picert.cloud.draft import Draft
from picert.cloud.writer import CloudWriter
from picert.messages import ChatMessage, Request, SamplingParams
from picert.pice.prompts import Prompt

PIECES = ["a", "b", "c", "d"]
PROMPT = Prompt((ChatMessage("user", "Hi"),), "", SamplingParams(max_tokens=100))


def writer_and_draft(
    expected_tokens: int, request_id: str = "r"
) -> tuple[CloudWriter, Draft, ScriptedLoop]:
    loop = ScriptedLoop(lambda part: PIECES)
    writer = CloudWriter(loop)  # type: ignore[arg-type]
    draft = Draft(Request(request_id=request_id, messages=()), writer.tokenizer, lambda: 0.0)
    draft.expected_tokens = expected_tokens
    return writer, draft, loop


async def test_backlog_is_what_open_texts_are_expected_to_take_yet() -> None:
    writer, draft, _ = writer_and_draft(expected_tokens=10)
    each = writer.speed.decode_seconds(1, writer.slots) / writer.slots
    left = [round(writer.backlog_s / each) async for _ in writer.write(draft, "answer", PROMPT)]
    assert left == [9, 8, 7, 6]
    assert writer.backlog_s == 0


async def test_backlog_never_falls_below_nothing_and_keeps_to_the_limit() -> None:
    writer, draft, _ = writer_and_draft(expected_tokens=2)
    async for _output in writer.write(draft, "answer", PROMPT):
        assert writer.backlog_s >= 0
    draft.expected_tokens = 10_000
    stream = writer.write(draft, "answer", PROMPT)
    await anext(stream)
    each = writer.speed.decode_seconds(1, writer.slots) / writer.slots
    assert writer.backlog_s == pytest.approx(99 * each)
    await stream.aclose()
    assert (writer.backlog_s, writer.num_running) == (0, 0)


async def test_only_a_text_alone_tells_how_fast_the_cloud_reads() -> None:
    writer, draft, loop = writer_and_draft(expected_tokens=10)
    before = writer.speed.prefill_seconds(100)
    loop.permits = asyncio.Semaphore(0)
    streams = [writer.write(draft, str(n), PROMPT) for n in range(2)]
    first = [asyncio.create_task(anext(stream)) for stream in streams]
    await settle()
    for _ in streams:
        loop.permits.release()
    await asyncio.gather(*first)
    assert writer.speed.prefill_seconds(100) == before
    for stream in streams:
        await stream.aclose()
    loop.permits = None
    _ = [output async for output in writer.write(draft, "alone", PROMPT)]
    assert writer.speed.prefill_seconds(100) != before


async def test_a_new_text_waits_only_where_no_place_is_free() -> None:
    writer, draft, loop = writer_and_draft(expected_tokens=50)
    loop.permits = asyncio.Semaphore(0)
    streams = [writer.write(draft, str(n), PROMPT) for n in range(writer.slots + 1)]
    reading = []
    for n, stream in enumerate(streams):
        assert (writer.wait_s > 0) == (n >= writer.slots)
        reading.append(asyncio.create_task(anext(stream)))
        await settle()
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    for stream in streams:
        await stream.aclose()
    assert writer.num_running == 0


async def test_a_score_is_of_the_text_alone_and_counted_as_read() -> None:
    writer, draft, loop = writer_and_draft(expected_tokens=10)
    loop.opinion = lambda text: -float(len(text))
    loop.may_score = asyncio.Event()
    asking = asyncio.create_task(writer.score(draft, "check", PROMPT, "some text", 1.0))
    await settle()
    num_read = len("Hi some text")
    assert writer.num_running == 1
    assert writer.backlog_s == pytest.approx(writer.speed.prefill_seconds(num_read))
    loop.may_score.set()
    assert await asking == -len(" some text")
    usage = draft.done().usage
    assert (usage.cloud_prompt_tokens, usage.cloud_completion_tokens) == (num_read, 0)
    assert (writer.num_running, writer.backlog_s) == (0, 0)
