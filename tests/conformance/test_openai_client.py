"""OpenAI's own Python client against a served cloud: what it sends is taken, what it gets it reads
as its own types.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from scripted_service import DONE, WAIT_S, ScriptedService, plan, text
from served import scripted_app, served

from picert.errors import DeadlineExceeded, QueueFull
from picert.messages import AnswerEvent, Request

MESSAGES: Any = [{"role": "user", "content": "What helps with stress?"}]
MODEL = "tiny"
SAMPLING: Any = {"max_tokens": 12, "seed": 1}


class Mood(BaseModel):
    """What the model is to fill in."""

    mood: Literal["calm", "tense"]
    hours: Literal[7, 8]


MOOD_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "set_mood",
        "description": "Says how it is",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"mood": {"enum": ["calm", "tense"]}},
            "required": ["mood"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30) as opened:
        yield opened


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30
    ) as opened:
        yield opened


def whole(client: openai.OpenAI, **options: Any) -> ChatCompletion:
    """A whole answer, after the client's own types have checked it strictly."""
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, **{**SAMPLING, **options}
    )
    return ChatCompletion.model_validate(answer.model_dump(), strict=True)


# --- chat -----------------------------------------------------------------------------------------


def test_whole_answer_is_of_the_clients_own_types(client: openai.OpenAI) -> None:
    answer = whole(client)
    [choice] = answer.choices
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None


def test_stream_adds_up_to_the_whole_answer(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            **SAMPLING,
        )
    )
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    answer = whole(client)
    assert told == answer.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens  # type: ignore[union-attr]


def test_clients_accumulator_of_a_stream_ends_with_the_parsed_answer(
    client: openai.OpenAI,
) -> None:
    asked: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 300, "seed": 1}
    with client.chat.completions.stream(**asked, response_format=Mood) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    parsed = client.chat.completions.parse(**asked, response_format=Mood)
    assert final.choices[0].message.parsed == parsed.choices[0].message.parsed


def test_same_seed_gives_the_same_answers_and_choices_differ(client: openai.OpenAI) -> None:
    first, second = whole(client, n=3), whole(client, n=3)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) > 1


def test_logprobs_are_of_the_clients_own_types(client: openai.OpenAI) -> None:
    logprobs = whole(client, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    for token in logprobs.content:
        assert len(token.top_logprobs) == 2
        assert token.logprob <= 0


def test_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    content = whole(client).choices[0].message.content
    assert content is not None
    stop = content[3:5]
    answer = whole(client, stop=[stop])
    assert answer.choices[0].message.content == content[: content.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_parsed_answer_is_an_object_of_the_callers_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Mood, max_tokens=300, seed=1
    )
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Mood)


def test_tool_call_is_read_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"tools": [MOOD_TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    answer = whole(client, **asked, max_tokens=300)
    [call] = answer.choices[0].message.tool_calls or []
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, **{**SAMPLING, **asked, "max_tokens": 300}
    ) as stream:
        stream.until_done()
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls"
    assert streamed.function.arguments == call.function.arguments  # type: ignore[union-attr]
    assert json.loads(streamed.function.arguments)["mood"] in ("calm", "tense")


def test_our_options_travel_in_the_extra_body(client: openai.OpenAI) -> None:
    answer = whole(client, extra_body={"picert": {"route": "direct"}, "top_k": 1})
    told: Any = answer.model_extra
    assert told["picert"]["route"] == "direct"


def test_headers_tell_route_and_request_id(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, extra_headers={"X-Request-Id": "mine"}, **SAMPLING
    )
    assert raw.headers["x-picert-route"] == "direct"
    assert raw.parse()._request_id == "mine"


# --- the other endpoints --------------------------------------------------------------------------


def test_plain_completion_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "The large model", **SAMPLING}
    answer = client.completions.create(**asked, logprobs=1)
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens or []) == answer.usage.completion_tokens  # type: ignore[union-attr]


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-9")
    assert missing.value.code == "model_not_found"


async def test_async_answers_side_by_side(async_client: openai.AsyncOpenAI) -> None:
    async def ask(seed: int) -> str:
        stream = await async_client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, max_tokens=8, seed=seed
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    together = await asyncio.gather(*(ask(seed) for seed in range(6)))
    assert [await ask(seed) for seed in range(6)] == list(together)


# --- errors ---------------------------------------------------------------------------------------


def test_bad_request_names_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        whole(client, temperature=-1)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")


def test_prompt_over_the_context_has_its_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model=MODEL, prompt=[5] * 2000)
    assert bad.value.code == "context_length_exceeded"


def test_full_queue_is_retried_as_retry_after_says() -> None:
    service = FullAtFirst()
    with (
        served(partial(scripted_app, service)) as at,
        openai.OpenAI(base_url=f"{at}/v1", api_key="none", max_retries=1) as client,
    ):
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == "Walk."
    assert len(service.requests) == 2


def test_full_queue_without_retries_is_a_rate_limit_error() -> None:
    with (
        served(partial(scripted_app, ScriptedService([QueueFull("full")]))) as at,
        openai.OpenAI(base_url=f"{at}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as full,
    ):
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert full.value.code == "queue_full"
    assert full.value.response.headers["retry-after"]


def test_error_amid_a_stream_is_raised_after_the_text_before_it() -> None:
    service = ScriptedService([plan(), text("Walk."), DeadlineExceeded("time is over")])
    with (
        served(partial(scripted_app, service)) as at,
        openai.OpenAI(base_url=f"{at}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "Walk."]
        with pytest.raises(openai.APIError, match="time is over"):
            next(stream)


def test_closing_a_stream_frees_the_answer() -> None:
    service = Endless()
    with (
        served(partial(scripted_app, service)) as at,
        openai.OpenAI(base_url=f"{at}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        next(stream)
        stream.close()
        assert service.is_closed.wait(WAIT_S)


class Endless(ScriptedService):
    """Begins an answer and never ends it; tells when it is closed."""

    def __init__(self) -> None:
        super().__init__([plan(), text("Walk."), asyncio.Event()])
        self.is_closed = threading.Event()

    async def answer(self, request: Request) -> AsyncGenerator[AnswerEvent, None]:
        """The script, to its end or to its closing."""
        try:
            async for event in super().answer(request):
                yield event
        finally:
            self.is_closed.set()


class FullAtFirst(ScriptedService):
    """Has room from the second request on."""

    def __init__(self) -> None:
        super().__init__([QueueFull("full")])

    def answer(self, request: Request) -> Any:
        """The script of the moment."""
        if self.requests:
            self.script = [plan("direct"), text("Walk."), DONE]
        return super().answer(request)
