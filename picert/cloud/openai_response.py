"""A chat answer as OpenAI's clients expect it, with picert's own report of how it came to be."""

from __future__ import annotations

from typing import Literal

import msgspec
from pydantic import BaseModel

from picert.messages import Done


class PromptTokensDetails(BaseModel):
    """Part of `usage`."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """Tokens of the visible conversation and answer."""

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


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one choice."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    """The body of a plain answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    picert: PicertReport


def usage(done: Done) -> CompletionUsage:
    """OpenAI's count of one answer."""
    cached = min(done.usage.cloud_cached_tokens, done.prompt_tokens)
    return CompletionUsage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        total_tokens=done.prompt_tokens + done.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def report(done: Done, explain: bool) -> PicertReport:
    """Our own account of one answer."""
    segments = []
    for segment in done.segments:
        fields = msgspec.structs.asdict(segment)
        if not explain:
            del fields["text"], fields["expansion"]
        segments.append(SegmentOut(**fields))
    return PicertReport(
        route=done.route,
        reasons=list(done.reasons),
        candidates=list(done.candidates) if explain else None,
        segments=segments,
        edges=edges(done),
        **msgspec.structs.asdict(done.usage),
        queue_ms=_ms(done.queue_s),
        sketch_ms=_ms(done.sketch_s),
        first_text_ms=_ms(done.first_text_s),
        total_ms=_ms(done.total_s),
    )


def edges(done: Done) -> list[str]:
    """Who wrote the segments, each once, in order of first use."""
    return list(dict.fromkeys(segment.edge for segment in done.segments))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
