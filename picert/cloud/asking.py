"""What a checked OpenAI request asks of the service: one `Request` for each answer, and how their
texts are to be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from picert.cloud.openai_request import prompts
from picert.cloud.openai_schema import (
    ChatRequest,
    CompletionRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedTool,
    Tool,
)
from picert.cloud.tool_calls import CallReader, calls_grammar, convention_of
from picert.errors import InvalidRequest
from picert.messages import ChatMessage, Grammar, Request, SamplingParams, ToolCall

_RENAMED = frozenset({"max_tokens", "stop", "stop_token_ids", "logprobs"})  # need more than a copy


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a request says nothing."""

    sampling: SamplingParams
    deadline_s: float
    chat_template: str | None  # of the model; how it calls functions


def chat_requests(chat: ChatRequest, request_id: str, defaults: Defaults) -> list[Request]:
    """One request for each of the `n` answers. Raises InvalidRequest."""
    messages = to_messages(chat.messages)
    opening = messages.pop().content if chat.continue_final_message else ""
    logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
    request = Request(
        request_id=request_id,
        messages=tuple(messages),
        sampling=_sampling(chat, defaults.sampling, _budget(chat), logprobs),
        tools=tuple(to_tools(chat.tools)) if chat.tool_choice != "none" else (),
        grammar=_grammar(chat, defaults.chat_template),
        opening=opening,
        add_generation_prompt=chat.add_generation_prompt is not False or bool(opening),
        **_ours(chat, defaults),
    )
    _refuse_conflicts(request, chat.n)
    return _choices([request], chat.n)


def completion_requests(
    asked: CompletionRequest, request_id: str, defaults: Defaults
) -> list[Request]:
    """One request for each of the `n` answers to each prompt, in order. Raises InvalidRequest."""
    sampling = _sampling(asked, defaults.sampling, asked.max_tokens, asked.logprobs)
    several = [
        Request(request_id=request_id, prompt=prompt, sampling=sampling, **_ours(asked, defaults))
        for prompt in prompts(asked)
    ]
    _refuse_conflicts(several[0], asked.n)
    return _choices(several, asked.n)


def call_reader(chat: ChatRequest, defaults: Defaults) -> CallReader | None:
    """What finds the calls in one answer's text; None where there can be none."""
    if not chat.tools or chat.tool_choice == "none":
        return None
    return CallReader(
        convention_of(defaults.chat_template),
        frozenset(tool.function.name for tool in chat.tools),
        1 if chat.parallel_tool_calls is False or isinstance(chat.tool_choice, NamedTool) else None,
    )


def to_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    """Turns as the chat template takes them."""
    return [
        ChatMessage(
            "system" if message.role == "developer" else message.role,
            message.content,
            tuple(
                ToolCall(call.id, call.function.name, call.function.arguments)
                for call in message.tool_calls or ()
            ),
            message.tool_call_id,
            message.name,
        )
        for message in messages
    ]


def to_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Functions as chat templates take them: what was not given is not there."""
    return [tool.model_dump(exclude_unset=True, exclude_none=True) for tool in tools or ()]


def _ours(asked: ChatRequest | CompletionRequest, defaults: Defaults) -> dict[str, Any]:
    ours = asked.picert
    return {
        "route": ours.route,
        "sketch_tokens": ours.sketch_tokens,
        "priority": asked.priority,
        "deadline_s": defaults.deadline_s if ours.deadline_ms is None else ours.deadline_ms / 1000,
        # The plan is a Progress event, and the headers of a stream name its route.
        "progress": ours.progress or asked.stream,
    }


def _choices(several: list[Request], n: int) -> list[Request]:
    """Each of `several` n times, with ids and seeds of their own."""
    total = len(several) * n
    if total == 1:
        return several
    requests = []
    for i in range(total):
        request = several[i // n]
        seed = request.sampling.seed
        sampling = request.sampling
        if seed is not None and i % n:
            sampling = msgspec.structs.replace(sampling, seed=(seed + i % n) % 2**63)
        changes = {"request_id": f"{request.request_id}.{i}", "num_choices": total}
        requests.append(msgspec.structs.replace(request, sampling=sampling, **changes))
    return requests


def _refuse_conflicts(request: Request, n: int) -> None:
    """Raises InvalidRequest where a forced route cannot give what else is asked for."""
    grammar = request.grammar
    sampling = request.sampling
    if grammar is not None:
        for name, is_set in (
            ("ignore_eos", sampling.ignore_eos),
            ("min_tokens", sampling.min_tokens),
        ):
            if is_set:
                raise InvalidRequest(
                    f"{name} is set and {grammar.param} prescribes the answer's form, which must "
                    "be able to end: leave out one",
                    param=name,
                )
    if request.route not in ("sketch", "edge_only"):
        return
    asked = (
        ("prompt", request.prompt is not None),
        ("n", n > 1),
        ("logprobs", sampling.logprobs is not None),
        ("tools", bool(request.tools)),
        ("response_format", grammar is not None),
        ("continue_final_message", bool(request.opening)),
        ("add_generation_prompt", not request.add_generation_prompt),
    )
    for name, is_set in asked:
        if is_set:
            raise InvalidRequest(
                f"picert.route is {request.route} and {name} is set, which only a direct answer "
                "can serve: leave out one",
                param="picert.route",
            )


def _grammar(chat: ChatRequest, chat_template: str | None) -> Grammar | None:
    """What the answer must be: a call of a tool, or JSON."""
    answer = chat.response_format
    is_json = isinstance(answer, JsonObjectFormat | JsonSchemaFormat)
    if chat.tools and chat.tool_choice != "none":
        convention = convention_of(chat_template)
        if is_json:
            raise InvalidRequest(
                "response_format prescribes JSON and tools are given: leave out one, or set "
                "tool_choice to none",
                param="response_format",
            )
        if chat.tool_choice in (None, "auto"):
            return None
        functions = [tool.function.model_dump() for tool in chat.tools]
        if isinstance(chat.tool_choice, NamedTool):
            functions = [_named(functions, chat.tool_choice.function.name)]
            return calls_grammar(convention, functions, parallel=False)
        return calls_grammar(convention, functions, chat.parallel_tool_calls is not False)
    if chat.tool_choice not in (None, "none", "auto"):
        raise InvalidRequest(
            "tool_choice asks for a call and there are no tools: give some", param="tool_choice"
        )
    if isinstance(answer, JsonSchemaFormat):
        return Grammar("json_schema", json.dumps(answer.json_schema.schema_), "response_format")
    if isinstance(answer, JsonObjectFormat):
        return Grammar("json_schema", '{"type": "object"}', "response_format")
    return None


def _named(functions: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for function in functions:
        if function["name"] == name:
            return function
    raise InvalidRequest(
        f"tool_choice names {name[:64]!r}, tools have no such function", param="tool_choice"
    )


def _budget(chat: ChatRequest) -> int | None:
    budgets = {chat.max_tokens, chat.max_completion_tokens} - {None}
    if len(budgets) > 1:
        raise InvalidRequest(
            f"max_tokens is {chat.max_tokens} and max_completion_tokens is "
            f"{chat.max_completion_tokens}: give one of them",
            param="max_tokens",
        )
    return budgets.pop() if budgets else None


def _sampling(
    asked: ChatRequest | CompletionRequest,
    defaults: SamplingParams,
    max_tokens: int | None,
    logprobs: int | None,
) -> SamplingParams:
    """`defaults` with what was given."""
    given: dict[str, Any] = {
        name: value
        for name in SamplingParams.__struct_fields__
        if name not in _RENAMED and (value := getattr(asked, name, None)) is not None
    }
    if asked.stop is not None:
        given["stop"] = tuple(asked.stop)
    if asked.stop_token_ids is not None:
        given["stop_token_ids"] = tuple(asked.stop_token_ids)
    if max_tokens is not None:
        given["max_tokens"] = max_tokens
    return msgspec.structs.replace(defaults, **given, logprobs=logprobs)
