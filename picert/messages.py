"""Every struct that crosses a process, and the words that all parts share.

No behaviour beyond validation, no transport, no engine: a struct here is what a JSON object would
be, typed. `request_id` names the question, `index` the segment (0-based) and `attempt` the try, so
that (request_id, index, attempt) identifies an expansion and a repeat is harmless. Times are
seconds of the sender's monotonic clock unless the name says otherwise; only differences of one
clock mean anything.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from picert.errors import InvalidRequest

PROTOCOL_VERSION = 1

Role = Literal["system", "user", "assistant", "tool"]
Route = Literal["auto", "direct", "sketch", "edge_only"]
TakenRoute = Literal["direct", "sketch", "edge_only", "fallback"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
# Bounds of what a peer may say are checked when it is decoded.
Count = Annotated[int, Meta(ge=0, lt=2**40)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
# Bounds that no honest peer meets keep out what is no number: NaN passes every comparison else.
Moment = Annotated[float, Meta(ge=-1e12, le=1e12)]
Duration = Annotated[float, Meta(ge=0, le=1e7)]
BatchSize = Annotated[int, Meta(ge=1, le=4096)]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are drawn and when to stop. The neutral defaults sample at temperature 1 from the
    whole distribution.

    Raises InvalidRequest, naming the field, for a value outside its range.
    """

    max_tokens: int = 256
    min_tokens: int = 0  # no end token or stop before this many
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}  # token id -> added to its logit
    seed: int | None = None  # None: drawn by the engine
    stop: tuple[str, ...] = ()  # stop strings, cut from the text
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; n: the chosen token's and the n best
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        are_biases = all(b == -math.inf or abs(b) <= 1000 for b in self.logit_bias.values())
        checks = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, "from 0 to max_tokens"),
            ("temperature", 0.0 <= self.temperature <= 100.0, "from 0 to 100"),
            ("top_p", 0.0 < self.top_p <= 1.0, "over 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "from 0 to 1"),
            ("repetition_penalty", 0.0 < self.repetition_penalty <= 10.0, "over 0 and at most 10"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "from -2 to 2"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "from -2 to 2"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "from 0 to 2^63 - 1"),
            ("stop", all(self.stop), "strings that are not empty"),
            ("logit_bias", are_biases, "within 1000 or -inf"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= 20, "from 0 to 20"),
        )
        for name, ok, wanted in checks:
            if not ok:
                given = getattr(self, name)
                raise InvalidRequest(f"{name} is {given!r}, must be {wanted}", param=name)


GREEDY = SamplingParams(temperature=0.0)


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the assistant wants to have called."""

    id: str
    name: str
    arguments: str  # JSON


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()  # of the assistant
    tool_call_id: str | None = None  # which call a tool's turn answers
    name: str | None = None  # of the speaker, where several have the same role


class Grammar(msgspec.Struct, frozen=True):
    """What a text must be; `param` is the field of the request that asked for it."""

    kind: Literal["json_schema", "lark"]
    source: str
    param: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted question, as the cloud service takes it.

    It has `messages`, or a raw `prompt` (text or token ids) that is completed as it stands.
    """

    request_id: str
    messages: tuple[ChatMessage, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    sampling: SamplingParams = SamplingParams()
    route: Route = "auto"
    sketch_tokens: int | None = None  # None: the policy's choice
    deadline_s: float = 300.0  # from acceptance
    progress: bool = False  # also yield Progress events
    priority: int = 0  # lower ones go first
    tools: tuple[dict[str, Any], ...] = ()  # as chat templates take them
    grammar: Grammar | None = None
    opening: str = ""  # the answer's turn begins with this, which is not shown again
    add_generation_prompt: bool = True  # else what is written goes on with the last turn
    num_choices: int = 1  # requests that ask the same at once, this one among them


class Segment(msgspec.Struct, frozen=True):
    """One line of a sketch: what one expansion is about."""

    index: int  # 0-based position in the answer
    text: str  # without its number


# --- edge link, cloud -> edge ---------------------------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Answer to Hello: the edge is registered."""

    picert_version: str
    heartbeat_s: Annotated[float, Meta(ge=0.01, le=60)]


class ExpandJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write the text of one or more neighbouring segments, one after the other, each as its own
    expansion.

    `outline` holds the sketch lines known so far, the job's own among them. `written` is text of
    the first segment that users have already seen (an earlier edge was lost): the expansion goes on
    after it and does not repeat it.
    """

    request_id: str
    attempt: int
    question: str
    outline: tuple[str, ...]
    segments: tuple[Segment, ...]
    max_tokens: int  # per segment
    deadline_s: Duration  # from receipt
    written: str = ""
    model: str | None = None  # None: the edge's own choice
    seed: int = 0
    candidate: int = 0  # of several that are asked for; all but the first are drawn at random


class AnswerJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer a whole conversation (route `edge_only`); the result is the expansion of index 0."""

    request_id: str
    attempt: int
    messages: tuple[ChatMessage, ...]
    sampling: SamplingParams
    deadline_s: Duration
    written: str = ""
    model: str | None = None


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop a request's expansions, all or those of one segment (`index`) and one try at it
    (`attempt`), and free what they hold; nothing more is sent for them."""

    request_id: str
    index: int | None = None
    attempt: int | None = None


class LoadModel(msgspec.Struct, frozen=True, tag=True):
    """Load one of your spare models; say Hello anew when it is held, or when it cannot be."""

    model: str


# --- edge link, edge -> cloud ---------------------------------------------------------------------


class Calibration(msgspec.Struct, frozen=True):
    """What mean log-probability per token is usual for the texts that a model expands."""

    mean: Annotated[float, Meta(ge=-1000, le=0)]
    std: Annotated[float, Meta(ge=0, le=1000)]


class ModelInfo(msgspec.Struct, frozen=True):
    """A model that an edge runs."""

    name: str
    fingerprint: str  # SHA-256 of the weights' header and size; equal files agree
    num_parameters: int
    max_model_len: int
    calibration: Calibration | None = None  # measured by `picert profile`


class SpareModel(msgspec.Struct, frozen=True):
    """A model that an edge does not hold and could load."""

    info: ModelInfo
    weight_bytes: Count
    load_s: Annotated[float, Meta(ge=0, le=3600)]  # measured there, else estimated from the bytes


class SpeedCurve(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a machine runs a model, as measured there: a coarse table.

    `decode_s_per_token` maps the number of sequences that are decoded together to the seconds of
    one step, in which each of them gets a token. Sizes between two entries lie on the line between
    them.
    """

    model: str
    prefill_s_per_token: Seconds
    decode_s_per_token: Annotated[dict[BatchSize, Seconds], Meta(min_length=1, max_length=32)]
    load_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0  # from disk until it could answer


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """First word of an edge after each connect, and whenever it holds other models. `curves` has at
    most one entry for each model, spare ones too; a model without one is measured by what it does.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]  # stable over reconnects
    picert_version: str
    models: Annotated[tuple[ModelInfo, ...], Meta(min_length=1, max_length=64)]
    slots: Annotated[int, Meta(ge=1, le=4096)]  # sequences it decodes at once
    kv_tokens: Count  # tokens of KV cache
    curves: Annotated[tuple[SpeedCurve, ...], Meta(max_length=64)] = ()
    instance: str = ""  # drawn once per process: tells a reconnect from another edge of that name
    spares: Annotated[tuple[SpareModel, ...], Meta(max_length=64)] = ()


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent every `heartbeat_s`; the cloud echoes it back unchanged, which gives the edge its round
    trip.
    """

    sent_at: Moment
    num_running: Count
    num_waiting: Count
    kv_usage: Annotated[float, Meta(ge=0, le=1)]
    rtt_s: Duration | None = None  # of the beat before


# One for every token: out of the garbage collector's sight, and no reason for a collection.
class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """A sampled token with its log-probability under the model itself, before params change it.

    `top` holds the n best (token id, log-probability) pairs, best first, if params asked for them.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TextDelta(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """More text of one expansion (on the link), or of the merged answer (from the service).

    `logprobs` are of the tokens behind the text, from the service alone and if asked for; text
    that is held back (it may begin a stop string) comes later than its token.
    """

    request_id: str
    index: int
    attempt: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    num_tokens: Annotated[int, Meta(ge=0, lt=2**20)] = 1  # that an edge has drawn since the last


class Expansion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An expansion is complete; `text` is all of it, without what `written` already held."""

    request_id: str
    index: int
    attempt: int
    text: str
    finish_reason: FinishReason
    model: str
    prompt_tokens: int
    cached_tokens: int  # of the prompt, found in the prefix cache
    completion_tokens: int
    mean_logprob: Annotated[float, Meta(ge=-1e6, le=1)]
    seconds: Duration


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A job, one segment of it (`index`), or a Hello or LoadModel (`request_id` empty), failed."""

    request_id: str
    attempt: int
    code: str
    message: str
    index: int | None = None  # None: all segments of the job


# --- edge link, both ways -------------------------------------------------------------------------


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Who is there, and what time is it? The cloud answers with its own; no registration."""

    picert_version: str
    unix_time: Moment


class Drain(msgspec.Struct, frozen=True, tag=True):
    """The sender takes nothing new, finishes what it holds and leaves."""

    reason: str = ""
    has_left: bool = False  # it holds nothing any more: its last word


ToEdge = Welcome | ExpandJob | AnswerJob | Cancel | LoadModel | Heartbeat | Failure | Drain
ToCloud = Probe | Hello | Heartbeat | TextDelta | Expansion | Failure | Drain
LinkMessage = ToEdge | ToCloud


# --- what the service tells its caller ------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What is going on behind the answer; only for requests that asked for it."""

    request_id: str
    stage: Literal["plan", "sketch", "expand", "segment_done", "repair"]
    text: str = ""
    index: int | None = None
    edge: str | None = None
    done: int = 0
    total: int = 0


class SegmentReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one segment of an answer came to be."""

    text: str
    expansion: str
    edge: str  # the edge's name, or "cloud" after a repair
    model: str
    tokens: int
    attempts: int
    candidates: int = 1  # texts that it was chosen from
    confidence: float | None = None  # in the one that was; None: the cloud's own


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens spent, at cloud and edges apart."""

    cloud_prompt_tokens: int = 0
    cloud_completion_tokens: int = 0
    cloud_cached_tokens: int = 0
    edge_prompt_tokens: int = 0
    edge_completion_tokens: int = 0


class Done(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The one terminal event of an answered request; a failed one ends in a PicertError instead."""

    request_id: str
    finish_reason: Literal["stop", "length"]
    route: TakenRoute
    reasons: tuple[str, ...]
    candidates: tuple[str, ...] = ()  # ways to serve it that were weighed, in mode pice
    segments: tuple[SegmentReport, ...]
    usage: Usage
    prompt_tokens: int  # of the visible conversation, by the cloud's tokenizer
    completion_tokens: int  # of the visible answer, by the cloud's tokenizer
    queue_s: float  # that the cloud's sequences waited for a place in a step
    sketch_s: float
    first_text_s: float
    total_s: float


AnswerEvent = TextDelta | Progress | Done
