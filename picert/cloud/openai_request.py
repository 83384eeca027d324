"""Bodies as OpenAI's clients send them: read and checked, the field at fault named.

What a checked request means for the service is in `asking`.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from picert.cloud import openai_refused as refused
from picert.cloud.openai_refused import Neutral, refuse_unsupported
from picert.cloud.openai_schema import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Message,
    StreamOptions,
    TokenizeRequest,
    shown,
)
from picert.errors import InvalidJson, InvalidRequest

BodyT = TypeVar("BodyT", bound=BaseModel)


def parse_chat(body: bytes) -> ChatRequest:
    """A chat request. Raises InvalidJson, or InvalidRequest that names the field."""
    chat = _parse(ChatRequest, body, refused.IN_CHAT)
    _check_stream_options(chat.stream, chat.stream_options)
    check_messages(chat.messages, chat.continue_final_message, chat.add_generation_prompt)
    if chat.top_logprobs is not None and not chat.logprobs and chat.top_logprobs > 0:
        raise InvalidRequest(
            f"top_logprobs is {chat.top_logprobs} and logprobs is not true: set it too",
            param="top_logprobs",
        )
    return chat


def parse_completion(body: bytes) -> CompletionRequest:
    """A request for a plain completion. Raises as `parse_chat` does."""
    asked = _parse(CompletionRequest, body, refused.IN_COMPLETION)
    _check_stream_options(asked.stream, asked.stream_options)
    if asked.echo and asked.logprobs is not None:
        raise InvalidRequest(
            "echo is true and logprobs is set: log-probabilities of a prompt are not computed, "
            "leave out one",
            param="echo",
        )
    num_prompts = len(prompts(asked))
    if not 1 <= num_prompts * asked.n <= MAX_CHOICES:
        raise InvalidRequest(
            f"prompt holds {num_prompts} prompts and n is {asked.n}: give at least one prompt, "
            f"and ask for at most {MAX_CHOICES} answers",
            param="prompt",
        )
    return asked


def prompts(asked: CompletionRequest) -> list[str | tuple[int, ...]]:
    """Each prompt of a request, texts and token ids."""
    given = asked.prompt
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [tuple(token for token in given if isinstance(token, int))]
    return [
        prompt if isinstance(prompt, str) else tuple(prompt)
        for prompt in given
        if not isinstance(prompt, int)
    ]


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """A text or a conversation to count. Raises as `parse_chat` does."""
    asked = _parse(TokenizeRequest, body, refused.IN_TOKENIZE)
    if (asked.prompt is None) == (asked.messages is None):
        raise InvalidRequest("give prompt or messages, one of them", param="prompt")
    if asked.messages is not None:
        check_messages(asked.messages, asked.continue_final_message, asked.add_generation_prompt)
    return asked


def parse_detokenize(body: bytes) -> DetokenizeRequest:
    """Tokens to read. Raises as `parse_chat` does."""
    return _parse(DetokenizeRequest, body, {})


def check_messages(
    messages: list[Message], continues: bool, add_generation_prompt: bool | None
) -> None:
    """Raises InvalidRequest for turns that lack something, and for a last one that cannot be
    answered.
    """
    for i, message in enumerate(messages):
        refuse_unsupported(message.model_extra, refused.IN_MESSAGE, f"messages[{i}].")
        given = message.model_fields_set & {"content", "tool_calls"}
        if not given or (message.role != "assistant" and "content" not in given):
            name = f"messages[{i}].content"
            raise InvalidRequest(f"{name} is missing", param=name)
        if message.tool_calls and message.role != "assistant":
            name = f"messages[{i}].tool_calls"
            raise InvalidRequest(f"{name}: only the assistant calls tools", param=name)
    last = messages[-1]
    if last.role == "user" and not last.content.strip():
        name = f"messages[{len(messages) - 1}].content"
        raise InvalidRequest(f"{name} is empty: write a question", param=name)
    if not continues:
        return
    if add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt are both true: a turn is continued "
            "or a new one opened",
            param="continue_final_message",
        )
    if last.role != "assistant" or last.tool_calls or len(messages) < 2:
        raise InvalidRequest(
            "continue_final_message is true: the last message must be the assistant's, after "
            "another, and without tool calls",
            param="continue_final_message",
        )


def _check_stream_options(stream: bool, options: StreamOptions | None) -> None:
    if options is None:
        return
    if not stream:
        raise InvalidRequest(
            "stream_options is set and stream is not true: leave it out", param="stream_options"
        )
    refuse_unsupported(options.model_extra, refused.IN_STREAM_OPTIONS, "stream_options.")


def _parse(model: type[BodyT], body: bytes, neutral: Neutral) -> BodyT:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJson(
            f"the body is not UTF-8 at byte {error.start}: send JSON as UTF-8"
        ) from None
    try:
        parsed = model.model_validate_json(text)
    except ValidationError as error:
        raise _as_invalid(error.errors(include_url=False)[0]) from None
    refuse_unsupported(parsed.model_extra, neutral)
    return parsed


def _as_invalid(detail: ErrorDetails) -> InvalidRequest:
    if detail["type"] == "json_invalid":
        return InvalidJson(f"the body is not JSON: {detail['msg'].removeprefix('Invalid JSON: ')}")
    name = _path(detail["loc"])
    if detail["type"] == "missing":
        return InvalidRequest(f"{name} is missing", param=name)
    problem = detail["msg"][:1].lower() + detail["msg"][1:]
    if not name:
        return InvalidRequest(f"the body: {problem} (given {shown(detail['input'])})")
    return InvalidRequest(f"{name}: {problem} (given {shown(detail['input'])})", param=name)


# Where several kinds are possible pydantic names the one it tried, which no client has written.
_UNIONS = frozenset({"response_format", "prompt", "tool_choice"})


def _path(loc: tuple[int | str, ...]) -> str:
    """`messages[0].content`, as OpenAI spells the place of a field."""
    head, *rest = loc or ("",)
    if head in _UNIONS:
        rest = rest[1:]
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest]
    return f"{head}{''.join(parts)}".removesuffix(".[key]")
