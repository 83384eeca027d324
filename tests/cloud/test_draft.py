"""Draft: limits, order, deadlines, and that closing frees everything."""

import asyncio

import pytest

from picert.cloud.draft import Draft
from picert.errors import DeadlineExceeded, Unavailable
from picert.messages import ChatMessage, Progress, Request, SamplingParams, TextDelta


class WordTokens:
    """A measure of text: one token a word, with the space before it."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def encode(self, text: str) -> list[int]:
        pieces = text.split(" ")
        words = [pieces[0], *(" " + piece for piece in pieces[1:])]
        kept = [word for word in words if word]
        start = len(self.words)
        self.words += kept
        return list(range(start, start + len(kept)))

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_draft(clock: Clock | None = None, **fields: object) -> Draft:
    sampling = SamplingParams(max_tokens=fields.pop("max_tokens", 100))
    request = Request(
        request_id="r", messages=(ChatMessage("user", "q"),), sampling=sampling, **fields
    )
    return Draft(request, WordTokens(), clock or Clock())


async def texts(draft: Draft) -> list[str]:
    return [event.text async for event in draft.events() if isinstance(event, TextDelta)]


async def test_events_end_when_every_producer_has_ended() -> None:
    draft = make_draft()

    async def say(text: str, after: asyncio.Event, then: asyncio.Event) -> None:
        await after.wait()
        draft.say(text)
        then.set()

    first, second, third = asyncio.Event(), asyncio.Event(), asyncio.Event()
    draft.spawn(say(" b", second, third))
    draft.spawn(say("a", first, second))
    first.set()
    assert await texts(draft) == ["a", " b"]


async def test_answer_is_cut_at_max_tokens_and_producers_are_stopped() -> None:
    draft = make_draft(max_tokens=3)
    reached_end = False

    async def talk() -> None:
        nonlocal reached_end
        for word in ("one", " two", " three four", " five"):
            draft.say(word)
            await asyncio.sleep(0)
        reached_end = True

    draft.spawn(talk())
    assert "".join(await texts(draft)) == "one two three"
    assert draft.done().finish_reason == "length"
    assert draft.done().completion_tokens == 3
    assert not reached_end


async def test_producer_error_ends_the_answer_after_the_text_before_it() -> None:
    draft = make_draft()

    async def fail() -> None:
        draft.say("shown")
        raise Unavailable("engine gone")

    draft.spawn(fail())
    events = draft.events()
    assert (await anext(events)).text == "shown"
    with pytest.raises(Unavailable, match="engine gone"):
        await anext(events)


async def test_deadline_ends_a_silent_answer() -> None:
    clock = Clock()
    draft = make_draft(clock, deadline_s=5.0)

    async def wait_too_long() -> None:
        clock.now = 6.0
        draft.say("late")
        await asyncio.Event().wait()

    draft.spawn(wait_too_long())
    with pytest.raises(DeadlineExceeded, match="5 s"):
        await texts(draft)
    await draft.close()


async def test_close_waits_until_producers_have_cleaned_up() -> None:
    draft = make_draft()
    freed = False

    async def hold() -> None:
        nonlocal freed
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            freed = True

    draft.spawn(hold())
    await asyncio.sleep(0)
    await draft.close()
    assert freed


async def test_progress_is_silent_unless_asked_for() -> None:
    quiet, curious = make_draft(), make_draft(progress=True)
    for draft in (quiet, curious):
        draft.note("plan", text="direct")
    assert [event async for event in quiet.events()] == []
    (event,) = [event async for event in curious.events()]
    assert isinstance(event, Progress)
    assert (event.stage, event.text) == ("plan", "direct")
