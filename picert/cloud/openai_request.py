"""A chat request as OpenAI's clients send it: read, checked, and turned into what the service
takes.

A field that OpenAI or vLLM defines and picert does not serve yet is refused by name unless its
value asks for nothing (`_NEUTRAL`); a field that nobody knows is accepted and logged, because
clients send new ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from picert.errors import InvalidJson, InvalidRequest
from picert.log import get_logger
from picert.messages import ChatMessage, Request, Route, SamplingParams

logger = get_logger(__name__)

# Known fields that are not served, and the values of each that ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        # OpenAI
        "n": (1,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": ("none",),
        "verbosity": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "metadata": ({},),
        "web_search_options": (),
        # vLLM
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "add_generation_prompt": (True,),
        "add_special_tokens": (False,),
        "continue_final_message": (False,),
        "include_stop_str_in_output": (False,),
        "priority": (0,),
        "echo": (False,),
        "best_of": (1,),
        "use_beam_search": (False,),
        "length_penalty": (1.0,),
        "prompt_logprobs": (),
        "truncate_prompt_tokens": (),
        "allowed_token_ids": ([],),
        "bad_words": ([],),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "mm_processor_kwargs": ({},),
        "structured_outputs": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "logits_processors": ([],),
    }
)
# The same for one message: what an answer holds when a client sends it back as it came.
_NEUTRAL_IN_MESSAGE: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "name": (),
        "refusal": (),
        "annotations": ([],),
        "audio": (),
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
        "reasoning_content": ("",),
    }
)
_SHOWN_CHARS = 60  # of a refused value, in the message
_RENAMED = ("max_tokens", "stop", "stop_token_ids")  # need more than a copy


class _Input(BaseModel):
    model_config = ConfigDict(
        strict=True, frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )


class Message(_Input):
    """One turn; content of several text parts is joined."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return "".join(_text_of(part, i) for i, part in enumerate(content))


class StreamOptions(_Input):
    """`stream_options`."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class PicertOptions(_Input):
    """Our own wishes, under the key `picert`; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    route: Route = "auto"
    sketch_tokens: int | None = Field(default=None, ge=8, le=4096)
    deadline_ms: int | None = Field(default=None, ge=1, le=3_600_000)
    explain: bool = False
    progress: bool = False


class ChatRequest(_Input):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[Annotated[int, Field(strict=False, ge=0)], float] | None = None
    seed: int | None = None
    stop: list[str] | None = Field(default=None, max_length=4)
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    user: str | None = None  # accepted; nothing is done with it
    request_id: str | None = None
    picert: PicertOptions = PicertOptions()

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop


def parse_chat(body: bytes) -> ChatRequest:
    """The request in `body`. Raises InvalidJson, or InvalidRequest that names the field."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJson(
            f"the body is not UTF-8 at byte {error.start}: send JSON as UTF-8"
        ) from None
    try:
        chat = ChatRequest.model_validate_json(text)
    except ValidationError as error:
        raise _as_invalid(error.errors(include_url=False)[0]) from None
    _refuse_unsupported(chat.model_extra or {}, _NEUTRAL, "")
    for i, message in enumerate(chat.messages):
        _refuse_unsupported(message.model_extra or {}, _NEUTRAL_IN_MESSAGE, f"messages[{i}].")
    last = len(chat.messages) - 1
    if not chat.messages[last].content.strip():
        name = f"messages[{last}].content"
        raise InvalidRequest(f"{name} is empty: write a question", param=name)
    return chat


def to_request(
    chat: ChatRequest, request_id: str, defaults: SamplingParams, deadline_s: float
) -> Request:
    """What the cloud service takes; fields that were not sent come from `defaults`. Raises
    InvalidRequest.
    """
    ours = chat.picert
    return Request(
        request_id=request_id,
        messages=tuple(
            ChatMessage("system" if m.role == "developer" else m.role, m.content)
            for m in chat.messages
        ),
        sampling=_sampling(chat, defaults),
        route=ours.route,
        sketch_tokens=ours.sketch_tokens,
        deadline_s=deadline_s if ours.deadline_ms is None else ours.deadline_ms / 1000,
        progress=ours.progress,
    )


def _text_of(part: Any, index: int) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    given = part.get("type") if isinstance(part, dict) else part
    raise PydanticCustomError(
        "text_part",
        "part {index} is {given}: only parts of the form {wanted} are supported",
        {"index": index, "given": _shown(given), "wanted": '{"type": "text", "text": "…"}'},
    )


def _as_invalid(detail: ErrorDetails) -> InvalidRequest:
    if detail["type"] == "json_invalid":
        return InvalidJson(f"the body is not JSON: {detail['msg'].removeprefix('Invalid JSON: ')}")
    name = _path(detail["loc"])
    if detail["type"] == "missing":
        return InvalidRequest(f"{name} is missing", param=name)
    problem = detail["msg"][:1].lower() + detail["msg"][1:]
    if not name:
        return InvalidRequest(f"the body: {problem} (given {_shown(detail['input'])})")
    return InvalidRequest(f"{name}: {problem} (given {_shown(detail['input'])})", param=name)


def _path(loc: tuple[int | str, ...]) -> str:
    """`messages[0].content`, as OpenAI spells the place of a field."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".").removesuffix(".[key]")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _refuse_unsupported(
    extra: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], prefix: str
) -> None:
    for name, value in extra.items():
        if name not in neutral:
            logger.debug("unknown field %s%s is ignored", prefix, name)
        elif value is not None and value not in neutral[name]:
            field = prefix + name
            raise InvalidRequest(
                f"{field} is {_shown(value)}, which is not supported: leave it out", param=field
            )


def _sampling(chat: ChatRequest, defaults: SamplingParams) -> SamplingParams:
    given: dict[str, Any] = {
        name: value
        for name in SamplingParams.__struct_fields__
        if name in ChatRequest.model_fields
        and name not in _RENAMED
        and (value := getattr(chat, name)) is not None
    }
    if chat.stop is not None:
        given["stop"] = tuple(chat.stop)
    if chat.stop_token_ids is not None:
        given["stop_token_ids"] = tuple(chat.stop_token_ids)
    budgets = {chat.max_tokens, chat.max_completion_tokens} - {None}
    if len(budgets) > 1:
        raise InvalidRequest(
            f"max_tokens is {chat.max_tokens} and max_completion_tokens is "
            f"{chat.max_completion_tokens}: give one of them",
            param="max_tokens",
        )
    if budgets:
        given["max_tokens"] = budgets.pop()
    return msgspec.structs.replace(defaults, **given)
