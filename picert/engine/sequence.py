"""Sequence: one request inside the engine: its tokens, its visible text and the reasons to stop.

No torch and no scheduling: where its K/V lies and when it runs is the scheduler's affair.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from picert.messages import FinishReason, SamplingParams, TokenLogprob


class TextDecoder(Protocol):
    """Tokens to text, one at a time; never a part of a character."""

    def push(self, token_id: int) -> str:
        """The text that this token completes."""
        ...

    def flush(self) -> str:
        """What is left, an incomplete character as U+FFFD."""
        ...


# Made for every token, so outside the garbage collector's sight.
class Output(msgspec.Struct, frozen=True, gc=False):
    """What one step added to one request. The one with a `finish_reason` is its last."""

    request_id: str
    text: str  # new since the last
    token_ids: tuple[int, ...]  # new; an end token is among them, its text is not
    logprobs: tuple[TokenLogprob, ...] | None  # of token_ids; None unless params asked for them
    finish_reason: FinishReason | None  # None while it runs
    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt, found in the prefix cache
    num_completion_tokens: int  # so far
    sum_logprob: float  # of the chosen tokens so far
    queue_s: float = 0.0  # from arrival to its place in a step
    span_logprobs: tuple[float, ...] = ()  # of a scored prompt: the mean of each span's tokens


def joined(outputs: SequenceOf[Output]) -> Output:
    """Successive outputs of one request, as if one step had given them all."""
    last = outputs[-1]
    if len(outputs) == 1:
        return last
    logprobs = None
    if last.logprobs is not None:
        logprobs = tuple(one for output in outputs for one in output.logprobs or ())
    return msgspec.structs.replace(
        last,
        text="".join(output.text for output in outputs),
        token_ids=tuple(token for output in outputs for token in output.token_ids),
        logprobs=logprobs,
    )


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a request is taken, apart from what is to be written."""

    deadline_s: float | None = None  # for all of it; None: no limit
    queue_timeout_s: float | None = None  # until its first place in a step
    priority: int = 0  # lower ones go first
    is_owed: bool = False  # part of an answer that has begun: a full queue does not refuse it


NO_TERMS = Terms()


class StopFilter:
    """Cuts text at the first stop string, and holds back what may be the beginning of one.

    Text comes in pieces. The result does not depend on how it was cut: of several stop strings, the
    one that is complete first wins, and of those the longest.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain to be visible and was not returned before."""
        text = self._held + text
        matches = [(at + len(s), at) for s in self._stops if (at := text.find(s)) >= 0]
        if matches:
            self.is_stopped, self._held = True, ""
            return text[: min(matches)[1]]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """What was held back, when no more text follows."""
        text, self._held = self._held, ""
        return text

    def _num_held(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(s) - 1 for s in self._stops), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(s.startswith(text[-size:]) for s in self._stops):
                return size
        return 0


@dataclass(slots=True)
class Times:
    """Moments of a request on the engine's clock, in seconds; None: not yet."""

    arrived_at: float
    started_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None

    @property
    def queue_s(self) -> float:
        """Seconds from arrival to the first step it was part of; 0 before that."""
        return 0.0 if self.started_at is None else self.started_at - self.arrived_at

    @property
    def decode_s(self) -> float | None:
        """Seconds from the first token to the last; None without a token."""
        if self.first_token_at is None or self.last_token_at is None:
            return None
        return self.last_token_at - self.first_token_at


@dataclass(slots=True)
class Sequence:
    """One request; `append` is the only way its tokens grow."""

    request_id: str
    seq_id: int
    prompt_ids: list[int]
    params: SamplingParams
    end_ids: frozenset[int]  # tokens that end it: the model's own unless ignored, and params' stops
    max_new_tokens: int  # the smaller of params.max_tokens and what the context leaves
    decoder: TextDecoder
    times: Times
    output_ids: list[int] = field(default_factory=list)
    sum_logprob: float = 0.0
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    _stop: StopFilter = field(init=False)

    def __post_init__(self) -> None:
        self._stop = StopFilter(self.params.stop)

    @property
    def num_left(self) -> int:
        """Tokens that it gets at most."""
        return self.max_new_tokens - len(self.output_ids)

    def append(self, token_id: int, logprob: float) -> str:
        """Take the next token, set `finish_reason` if it is the last; return the new text."""
        self.output_ids.append(token_id)
        self.sum_logprob += logprob
        num_tokens = len(self.output_ids)
        if token_id in self.end_ids:
            self.finish_reason = "stop"
            return self._rest()
        text = self._visible(self.decoder.push(token_id))
        if self._stop.is_stopped:
            self.finish_reason = "stop"
        elif num_tokens >= self.max_new_tokens:
            self.finish_reason = "length"
            text += self._rest()
        return text

    def end_unanswered(self) -> None:
        """End it without a token: it was only to be read."""
        self.finish_reason = "stop"

    def fail(self) -> str:
        """End it because no token could be drawn; return the text held back."""
        self.finish_reason = "error"
        return self._rest()

    def _visible(self, text: str) -> str:
        """Text after the stop strings; before `min_tokens` none of them counts."""
        if not self.params.stop or len(self.output_ids) < self.params.min_tokens:
            return text
        return self._stop.push(text)

    def _rest(self) -> str:
        text = self._visible(self.decoder.flush())
        if self._stop.is_stopped:
            self.finish_reason = "stop"
            return text
        return text + self._stop.flush()
