"""Doubles at the borders of the cloud service: an engine loop that says what a test tells it, and
edges behind a link whose events a test makes happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from types import SimpleNamespace

import msgspec

from picert.engine.sampler import TokenMask
from picert.engine.scoring import Span
from picert.engine.sequence import Output, Terms
from picert.errors import QueueFull
from picert.messages import (
    Cancel,
    ChatMessage,
    ExpandJob,
    Expansion,
    Hello,
    ModelInfo,
    SamplingParams,
    SpeedCurve,
    TextDelta,
)
from picert.transport.events import PeerJoined, PeerMessage

Script = Callable[[str], Sequence[str]]  # a request's part ("sketch", "answer", ...) -> pieces


class ByteTokens:
    """A tokenizer of one token a character, for counting and cutting."""

    eos_token_ids = ()

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def encode_chat(
        self, messages: Sequence[ChatMessage], *, prefill: str = "", **_: object
    ) -> list[int]:
        return self.encode("\n".join(m.content for m in messages) + prefill)


class ScriptedLoop:
    """Stands for EngineLoop: each piece of the script is one output."""

    def __init__(self, script: Script) -> None:
        self.engine = SimpleNamespace(
            tokenizer=ByteTokens(),
            identity=SimpleNamespace(name="large"),
            config=SimpleNamespace(max_num_seqs=8),
        )
        self.open: set[str] = set()
        self.prompts: dict[str, str] = {}
        self.permits: asyncio.Semaphore | None = None  # where set, a piece takes one
        self.last_reason = "stop"  # why a text ends
        self.opinion: Callable[[str], float] = lambda text: -1.0  # of a text that is scored
        self.may_score: asyncio.Event | None = None  # where set, a score waits for it
        self.scored: list[tuple[str, Terms]] = []  # which parts were to be, and on what terms
        self._script = script

    async def stream(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        terms: Terms,
        mask: TokenMask | None = None,
    ) -> AsyncGenerator[Output, None]:
        assert terms.deadline_s is not None
        part = request_id.split("/")[1]
        self.prompts[part] = ByteTokens().decode(prompt_ids)
        pieces = self._script(part)
        self.open.add(request_id)
        try:
            for n, text in enumerate(pieces, start=1):
                if self.permits is not None:
                    await self.permits.acquire()
                reason = self.last_reason if n == len(pieces) else None
                yield Output(request_id, text, (n,), None, reason, len(prompt_ids), 0, n, -1.0 * n)
                await asyncio.sleep(0)
        finally:
            self.open.discard(request_id)

    async def score(
        self, request_id: str, prompt_ids: Sequence[int], spans: Sequence[Span], *, terms: Terms
    ) -> Output:
        assert terms.deadline_s is not None
        part, [(begin, end)] = request_id.split("/")[1], spans
        text = ByteTokens().decode(prompt_ids)
        self.prompts[part] = text
        self.scored.append((part, terms))
        self.open.add(request_id)
        try:
            if self.may_score is not None:
                await self.may_score.wait()
            value = self.opinion(text[begin:end])
        finally:
            self.open.discard(request_id)
        told = Output(request_id, "", (), None, "stop", len(prompt_ids), begin, 0, 0.0)
        return msgspec.structs.replace(told, span_logprobs=(value,))


Reply = Callable[[str, ExpandJob, "ScriptedLink"], None]


class ScriptedLink:
    """Stands for ServerLink: `happen` makes an event, sent messages are kept, `reply` reacts."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.sent: list[tuple[str, object]] = []
        self.full: set[str] = set()
        self.silent: set[str] = set()
        self.reply = reply
        self.rejected = self.num_refused = 0
        self._events: asyncio.Queue[object] = asyncio.Queue()

    def happen(self, event: object) -> None:
        self._events.put_nowait(event)

    def join(self, *names: str, slots: int = 1) -> None:
        for name in names:
            self.happen(PeerJoined(name, hello(name, slots)))

    async def events(self) -> AsyncIterator[object]:
        while (event := await self._events.get()) is not None:
            yield event

    @property
    def peers(self) -> dict[str, object]:
        return {}

    def state(self, name: str) -> str:
        return "probation" if name in self.silent else "alive"

    def load(self, name: str) -> None:
        return None

    async def send(self, name: str, message: object) -> None:
        if name in self.full:
            raise QueueFull("full")
        self.sent.append((name, message))
        if self.reply is not None and not isinstance(message, Cancel):
            self.reply(name, message, self)

    def write(self, edge: str, job: ExpandJob, text: str, *, whole: bool = True) -> None:
        """Let an edge send `text` piece by piece for the first segment of its job."""
        index = job.segments[0].index if isinstance(job, ExpandJob) else 0
        for word in text.split(" "):
            piece = word if word == text.split(" ")[0] else " " + word
            self.happen(PeerMessage(edge, TextDelta(job.request_id, index, job.attempt, piece)))
        if whole:
            done = expansion(index, job.attempt, text=text, request_id=job.request_id)
            self.happen(PeerMessage(edge, done))


def hello(name: str, slots: int = 1, step_s: float | None = None) -> Hello:
    """What an edge named `name` with one tiny model says first; `step_s` is its measured speed."""
    curve = SpeedCurve(
        model="tiny", prefill_s_per_token=(step_s or 1.0) / 20, decode_s_per_token={1: step_s or 1}
    )
    return Hello(
        name=name,
        picert_version="0",
        models=(ModelInfo("tiny", "f", 1000, 4096),),
        slots=slots,
        kv_tokens=100_000,
        curves=() if step_s is None else (curve,),
    )


def expansion(
    index: int = 0, attempt: int = 0, *, text: str = "done", request_id: str = "r"
) -> Expansion:
    """A finished expansion, ten tokens of prompt and as many as words of text."""
    return Expansion(
        request_id=request_id,
        index=index,
        attempt=attempt,
        text=text,
        finish_reason="stop",
        model="tiny",
        prompt_tokens=10,
        cached_tokens=0,
        completion_tokens=len(text.split()),
        mean_logprob=-1.0,
        seconds=0.1,
    )


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)
