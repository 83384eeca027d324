"""What clients may send, field by field: the source of the checks, of `/openapi.json` and of
docs/conformance.md.

A field of these models is served as its description says. What OpenAI or vLLM also know stands in
`openai_refused`; a field that nobody knows is accepted, because clients send new ones.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from picert.messages import Route

MAX_CHOICES = 128  # answers that one request may ask for
_SHOWN_CHARS = 60  # of a refused value, in the message
_NAME = r"^[A-Za-z0-9_.-]{1,64}$"  # of a function


def shown(value: Any) -> str:
    """A value as an error names it."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _joined(content: Any) -> Any:
    """Content of several text parts as one text; none (beside tool calls) as the empty one."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    return "".join(_text_of(part, i) for i, part in enumerate(content))


def _text_of(part: Any, index: int) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    given = part.get("type") if isinstance(part, dict) else part
    raise PydanticCustomError(
        "text_part",
        "part {index} is {given}: only parts of the form {wanted} are supported",
        {"index": index, "given": shown(given), "wanted": '{"type": "text", "text": "…"}'},
    )


def _one_stop(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_TEXT = {"type": "string"}
Content = Annotated[
    str,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _PART}, {"type": "null"}]}),
]
Stops = Annotated[
    list[str] | None,
    BeforeValidator(_one_stop),
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 4}, {"type": "null"}]}
    ),
]


class _Input(BaseModel):
    model_config = ConfigDict(
        strict=True, frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )


# --- messages and tools ---------------------------------------------------------------------------


class FunctionCall(_Input):
    """`tool_calls[].function` of an assistant's turn."""

    name: str = Field(pattern=_NAME)
    arguments: str = "{}"

    @field_validator("arguments")
    @classmethod
    def _is_object(cls, arguments: str) -> str:
        try:
            is_object = isinstance(json.loads(arguments or "{}"), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise PydanticCustomError("arguments", "must be the text of a JSON object")
        return arguments or "{}"


class ToolCallIn(_Input):
    """One of `tool_calls`, as an answer gave it."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Input):
    """One turn; content of several text parts is joined."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = ""
    name: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    tool_call_id: str | None = None


class Function(_Input):
    """What the model may call; `parameters` is a JSON schema."""

    name: str = Field(pattern=_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Input):
    """One of `tools`."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Input):
    """`tool_choice.function`."""

    name: str


class NamedTool(_Input):
    """`tool_choice` where it names a function."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(_Input):
    """`response_format.json_schema`."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class TextFormat(_Input):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(_Input):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(_Input):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


# --- what all answers have in common --------------------------------------------------------------


class StreamOptions(_Input):
    """`stream_options`."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class PicertOptions(_Input):
    """Our own wishes, under the key `picert`; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    route: Route = Field("auto", description="`auto` is the policy's choice")
    sketch_tokens: int | None = Field(
        None, ge=8, le=4096, description="length of the sketch, instead of the policy's choice"
    )
    deadline_ms: int | None = Field(
        None,
        ge=1,
        le=3_600_000,
        description="the answer must be complete by then, or ends in an error",
    )
    explain: bool = Field(False, description="also tell the text of each segment and its expansion")
    progress: bool = Field(
        False, description="in a stream, also tell what goes on behind the answer"
    )


class _Generation(_Input):
    """What to write with, for chat and plain completions alike."""

    model: str | None = Field(None, description="a name of `/v1/models`; may be left out")
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="answers; with a seed, each has its own")
    stream: bool = Field(False, description="server-sent events instead of one body")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage` adds the usage to a stream; only with `stream`"
    )
    max_tokens: int | None = Field(None, description="of the visible answer, 1 or more")
    min_tokens: int | None = Field(None, description="no end before this many")
    temperature: float | None = Field(None, description="0 to 100; 0 takes the likeliest token")
    top_p: float | None = Field(None, description="over 0, at most 1")
    top_k: int | None = Field(None, description="0 is off")
    min_p: float | None = Field(None, description="0 to 1")
    repetition_penalty: float | None = Field(None, description="over 0, at most 10")
    presence_penalty: float | None = Field(None, description="-2 to 2")
    frequency_penalty: float | None = Field(None, description="-2 to 2")
    logit_bias: dict[Annotated[int, Field(strict=False, ge=0)], float] | None = Field(
        None, description="token id to what is added to its logit"
    )
    seed: int | None = Field(None, description="the same request gives the same text")
    stop: Stops = Field(None, max_length=4, description="up to four, cut from the text")
    stop_token_ids: list[int] | None = Field(None, description="tokens that end the answer")
    ignore_eos: bool | None = Field(None, description="write on to `max_tokens`")
    skip_special_tokens: bool | None = Field(None, description="false shows them in the text")
    priority: int = Field(
        0, ge=-1_000_000, le=1_000_000, description="lower ones wait less; 0 where it is left out"
    )
    user: str | None = Field(None, description="accepted; nothing is done with it")
    safety_identifier: str | None = Field(None, description="as `user`")
    prompt_cache_key: str | None = Field(
        None, description="accepted; equal beginnings are found without it"
    )
    request_id: str | None = Field(None, description="comes back as `x-request-id`")
    picert: PicertOptions = Field(PicertOptions(), description="our own wishes, see docs/http.md")


class ChatRequest(_Generation):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(
        min_length=1, description="text only: a string, or parts of type `text`"
    )
    max_completion_tokens: int | None = Field(None, description="the newer name of `max_tokens`")
    logprobs: bool | None = Field(None, description="the model's own, before sampling options")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="with `logprobs`")
    response_format: ResponseFormat | None = Field(
        None, description="`json_object` and `json_schema` are enforced token by token"
    )
    tools: list[Tool] | None = Field(
        None, max_length=128, description="functions, shown by the model's own chat template"
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        None, description="`required` and a named function are enforced token by token"
    )
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call")
    add_generation_prompt: bool | None = Field(
        None, description="false: no assistant's turn is opened"
    )
    continue_final_message: bool = Field(
        False, description="write on in the last message, which is the assistant's"
    )


class CompletionRequest(_Generation):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="text or token ids, or several of them; completed as they stand"
    )
    logprobs: int | None = Field(
        None, ge=0, le=20, description="of the chosen token and of so many best ones"
    )
    echo: bool = Field(False, description="the prompt before the answer; not with `logprobs`")


# --- tokens ---------------------------------------------------------------------------------------


class TokenizeRequest(_Input):
    """The body of `POST /tokenize`: a prompt, or messages."""

    model: str | None = Field(None, description="a name of `/v1/models`; may be left out")
    prompt: str | None = Field(None, description="a raw prompt")
    messages: list[Message] | None = Field(
        None, min_length=1, description="a conversation, as the chat template writes it"
    )
    tools: list[Tool] | None = Field(None, max_length=128, description="with `messages`")
    add_special_tokens: bool = Field(
        True, description="of a prompt: the beginning-of-text token, if the model wants one"
    )
    add_generation_prompt: bool | None = Field(
        None, description="false: no assistant's turn is opened"
    )
    continue_final_message: bool = Field(False, description="the last message stays open")
    return_token_strs: bool = Field(False, description="also the text of each token")


class DetokenizeRequest(_Input):
    """The body of `POST /detokenize`."""

    model: str | None = Field(None, description="a name of `/v1/models`; may be left out")
    tokens: list[int] = Field(description="token ids; special ones are shown")
