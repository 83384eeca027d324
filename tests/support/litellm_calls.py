"""Calls through LiteLLM, in a process of their own: it leaves threads and connections behind.

    python litellm_calls.py URL URL_OF_A_FULL_CLOUD

One JSON object on stdout: what each call gave.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "rest",
        "parameters": {
            "type": "object",
            "properties": {"hours": {"enum": [7, 8]}},
            "required": ["hours"],
            "additionalProperties": False,
        },
    },
}


def to(url: str, **changes: Any) -> dict[str, Any]:
    """How to reach the cloud, and how to sample."""
    return {
        "model": "openai/tiny",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "messages": [{"role": "user", "content": "What helps with stress?"}],
        "max_tokens": 8,
        "seed": 1,
        "max_retries": 0,
        "timeout": 20,
        **changes,
    }


def whole_and_streamed(url: str) -> dict[str, Any]:
    """The same question twice."""
    whole = litellm.completion(**to(url))
    chunks = litellm.completion(**to(url), stream=True)
    return {
        "whole": whole.choices[0].message.content,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        "usage": whole.usage.model_dump(),
    }


def refusal(url: str, **changes: Any) -> dict[str, str]:
    """The error that LiteLLM makes of one."""
    try:
        litellm.completion(**to(url, **changes))
    except Exception as error:
        return {"type": type(error).__name__, "text": str(error)}
    return {"type": "none", "text": ""}


async def streamed_usage(url: str) -> list[int]:
    """Completion tokens of the chunks that tell them."""
    stream = await litellm.acompletion(
        **to(url), stream=True, stream_options={"include_usage": True}
    )
    usages = [getattr(chunk, "usage", None) async for chunk in stream]
    return [usage.completion_tokens for usage in usages if usage is not None]


def tool_call(url: str) -> dict[str, Any]:
    """A call that had to be made."""
    answer = litellm.completion(
        **to(url, max_tokens=200), tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    [call] = answer.choices[0].message.tool_calls
    return {"name": call.function.name, "finish_reason": answer.choices[0].finish_reason}


def main(url: str, full_url: str) -> None:
    """Everything once."""
    told = {
        "answers": whole_and_streamed(url),
        "bad": refusal(url, top_p=0.0),
        "full": refusal(full_url),
        "streamed_usage": asyncio.run(streamed_usage(url)),
        "tool": tool_call(url),
    }
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)  # its threads would be waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
