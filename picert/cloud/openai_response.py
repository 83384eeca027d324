"""Answers as OpenAI's clients expect them, with picert's own report of how they came to be: the
shapes in `/openapi.json`, and what fills them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from picert.messages import Done, TokenLogprob, ToolCall

_LEAST_LOGPROB = -9999.0  # OpenAI's word for one that JSON cannot write
TokenBytes = Callable[[int], bytes]


class PromptTokensDetails(BaseModel):
    """Part of `usage`."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """Tokens of the visible conversation and answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class SegmentOut(BaseModel):
    """How one segment came to be; the texts only where `explain` was asked for."""

    edge: str
    model: str
    tokens: int
    attempts: int
    candidates: int
    confidence: float | None
    text: str | None = None
    expansion: str | None = None


class PicertReport(BaseModel):
    """What happened behind the answer."""

    route: str
    reasons: list[str]
    candidates: list[str] | None = None  # ways to serve it that were weighed, where asked for
    segments: list[SegmentOut]
    edges: list[str]
    cloud_prompt_tokens: int
    cloud_completion_tokens: int
    cloud_cached_tokens: int
    edge_prompt_tokens: int
    edge_completion_tokens: int
    queue_ms: float
    sketch_ms: float
    first_text_ms: float
    total_ms: float


class TopLogprob(BaseModel):
    """A token that was likely here."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobOut(BaseModel):
    """The token that was chosen."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of each token of an answer."""

    content: list[TokenLogprobOut]
    refusal: None = None


class FunctionOut(BaseModel):
    """What to call, with the text of a JSON object."""

    name: str
    arguments: str


class ToolCallOut(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionOut


class AnswerMessage(BaseModel):
    """The assistant's turn; without `tool_calls` where there are none."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCallOut] | None = None


FinishReason = Literal["stop", "length", "tool_calls"]


class Choice(BaseModel):
    """One answer."""

    index: int = 0
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None


class ChatCompletion(BaseModel):
    """The body of plain chat answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    picert: PicertReport


class TextLogprobs(BaseModel):
    """Of each token of a plain completion, in lists of equal length."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One plain completion."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: TextLogprobs | None = None


class TextCompletion(BaseModel):
    """The body of plain completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    picert: PicertReport


class ModelOut(BaseModel):
    """One name of the list."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """What `model` may be."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class Tokenized(BaseModel):
    """Token ids of a text or a conversation."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(BaseModel):
    """Text of token ids."""

    prompt: str


class ErrorOut(BaseModel):
    """What went wrong; `param` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorOut


def usage(dones: Sequence[Done], num_prompts: int = 1) -> CompletionUsage:
    """OpenAI's count of answers in order of prompt, each prompt counted once."""
    of_prompts = dones[:: len(dones) // num_prompts]
    prompt_tokens = sum(done.prompt_tokens for done in of_prompts)
    completion_tokens = sum(done.completion_tokens for done in dones)
    cached = sum(min(done.usage.cloud_cached_tokens, done.prompt_tokens) for done in of_prompts)
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def report(dones: Sequence[Done], explain: bool) -> PicertReport:
    """Our own account: route and reasons of the first answer, tokens of all, times of the last."""
    spent = [msgspec.structs.asdict(done.usage) for done in dones]
    return PicertReport(
        route=dones[0].route,
        reasons=list(dones[0].reasons),
        candidates=list(dones[0].candidates) if explain else None,
        segments=[_segment(s, explain) for done in dones for s in done.segments],
        edges=list(dict.fromkeys(name for done in dones for name in edges(done))),
        **{name: sum(tokens[name] for tokens in spent) for name in spent[0]},
        queue_ms=_ms(max(done.queue_s for done in dones)),
        sketch_ms=_ms(max(done.sketch_s for done in dones)),
        first_text_ms=_ms(max(done.first_text_s for done in dones)),
        total_ms=_ms(max(done.total_s for done in dones)),
    )


def edges(done: Done) -> list[str]:
    """Who wrote the segments, each once, in order of first use."""
    return list(dict.fromkeys(segment.edge for segment in done.segments))


def chat_logprobs(tokens: Sequence[TokenLogprob], token_bytes: TokenBytes) -> dict[str, Any]:
    """`ChatLogprobs` of these tokens."""
    content = []
    for token in tokens:
        chosen = _logprob(token.token_id, token.logprob, token_bytes)
        top = [_logprob(token_id, value, token_bytes) for token_id, value in token.top]
        content.append({**chosen, "top_logprobs": top})
    return {"content": content, "refusal": None}


def text_logprobs(
    tokens: Sequence[TokenLogprob], token_bytes: TokenBytes, offset: int
) -> dict[str, Any]:
    """`TextLogprobs` of these tokens, whose text begins at `offset`. The chosen token is among the
    best ones, too; of others that read the same the likeliest counts.
    """
    texts = [_text(token.token_id, token_bytes) for token in tokens]
    best: list[dict[str, float]] = []
    for text, token in zip(texts, tokens, strict=True):
        likely = {text: _finite(token.logprob)}
        for token_id, value in token.top:
            likely.setdefault(_text(token_id, token_bytes), _finite(value))
        best.append(likely)
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": best,
        "text_offset": offsets,
    }


def tool_call(call: ToolCall) -> dict[str, Any]:
    """`ToolCallOut` of a call."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _segment(segment: msgspec.Struct, explain: bool) -> SegmentOut:
    fields = msgspec.structs.asdict(segment)
    if not explain:
        del fields["text"], fields["expansion"]
    return SegmentOut(**fields)


def _logprob(token_id: int, value: float, token_bytes: TokenBytes) -> dict[str, Any]:
    data = token_bytes(token_id)
    text = data.decode("utf-8", "replace")
    return {"token": text, "logprob": _finite(value), "bytes": list(data)}


def _text(token_id: int, token_bytes: TokenBytes) -> str:
    return token_bytes(token_id).decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
