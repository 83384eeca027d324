"""LiteLLM, which speaks for many providers, with the cloud as one that is like OpenAI."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import litellm
import pytest
from scripted_service import ScriptedService
from served import scripted_app, served

from picert.errors import QueueFull

# Said while it is imported: of a class for signing in at another provider.
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")
MESSAGES = [{"role": "user", "content": "What helps with stress?"}]


@pytest.fixture
def to(url: str) -> dict[str, Any]:
    """How to reach the cloud, and how to sample."""
    return {
        "model": "openai/tiny",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "messages": MESSAGES,
        "max_tokens": 8,
        "seed": 1,
        "max_retries": 0,
    }


@pytest.fixture(autouse=True)
def no_callbacks() -> Iterator[None]:
    """Its logging must not outlive a test."""
    yield
    litellm.in_memory_llm_clients_cache.flush_cache()


def test_streamed_and_whole_answers_are_the_same(to: dict[str, Any]) -> None:
    whole = litellm.completion(**to)
    chunks = list(litellm.completion(**to, stream=True))
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert told == whole.choices[0].message.content
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_refusal_and_full_queue_are_its_own_errors(to: dict[str, Any]) -> None:
    with pytest.raises(litellm.BadRequestError, match="top_p is 0"):
        litellm.completion(**to, top_p=0.0)
    with (
        served(partial(scripted_app, ScriptedService([QueueFull("no room")]))) as at,
        pytest.raises(litellm.RateLimitError, match="no room"),
    ):
        litellm.completion(**{**to, "api_base": f"{at}/v1"})


async def test_async_stream_gives_the_usage(to: dict[str, Any]) -> None:
    stream = await litellm.acompletion(**to, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    [usage] = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None) is not None]
    assert usage.completion_tokens == 8


def test_json_schema_and_tools_pass_through(to: dict[str, Any]) -> None:
    parameters = {
        "type": "object",
        "properties": {"hours": {"enum": [7, 8]}},
        "required": ["hours"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "rest", "parameters": parameters}}
    answer = litellm.completion(
        **{**to, "max_tokens": 200}, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "rest"
    assert answer.choices[0].finish_reason == "tool_calls"
