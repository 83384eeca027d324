"""What cloud and edges need of an EngineLoop. Its other kind has no model and no time of its own:
picert.simulate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from picert.engine.sampler import TokenMask
from picert.engine.scoring import Span
from picert.engine.sequence import NO_TERMS, Output, Terms
from picert.messages import ChatMessage, SamplingParams


class Named(Protocol):
    """Which model it is."""

    @property
    def name(self) -> str:
        """As its file says."""


class Limits(Protocol):
    """How much it takes on."""

    @property
    def max_num_seqs(self) -> int:
        """Texts written at once."""


class Tokens(Protocol):
    """How the model reads."""

    eos_token_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt."""

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        prefill: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation. Raises InvalidRequest."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""


class StreamingEngine(Protocol):
    """What may be asked of the engine itself."""

    @property
    def identity(self) -> Named:
        """Its model."""

    @property
    def tokenizer(self) -> Tokens:
        """Of its model."""

    @property
    def config(self) -> Limits:
        """Its own."""


class StreamingLoop(Protocol):
    """A model that writes and reads several texts at once."""

    @property
    def engine(self) -> StreamingEngine:
        """For its tokenizer and config only."""

    def stream(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        terms: Terms = NO_TERMS,
        mask: TokenMask | None = None,
    ) -> AsyncGenerator[Output, None]:
        """Outputs of one request, up to the one with a `finish_reason`; closing aborts it."""

    async def score(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        spans: Sequence[Span],
        *,
        terms: Terms = NO_TERMS,
    ) -> Output:
        """The one output of a prompt that is read and not answered, with the mean log-probability
        of each span's tokens; cancelling the caller aborts it."""
