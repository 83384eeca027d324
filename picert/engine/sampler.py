"""Sampler: the thin Python face of `picert._C.Sampler`: rows of logits to tokens.

Which tokens and in what order things are done is written in csrc/sample/sampler.h; the slow Python
twin that the tests hold it against is tests/support/naive_sampler.py.

Rows are independent: draw n of a request is a function of its seed and n alone, so its text does
not depend on its neighbours, on preemption or on the step it ran in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from picert import _C
from picert.messages import SamplingParams, TokenLogprob

FloatArray = NDArray[np.float32]
Masks = list[NDArray[np.bool_] | None]  # of each row what it allows; empty where all allow all


class TokenMask(Protocol):
    """Which tokens may follow: a grammar, as the sampler sees it."""

    def allowed(self, generated_ids: Sequence[int]) -> NDArray[np.bool_] | None:
        """[vocab_size] of what may come after these; None: everything. Tokens beyond it may not."""
        ...


@dataclass(slots=True, eq=False)
class SamplingState:
    """What one request's next token depends on besides its logits."""

    core: _C.SamplingState
    params: SamplingParams
    seed: int
    mask: TokenMask | None
    generated_ids: list[int] = field(default_factory=list)  # kept only where there is a mask

    @property
    def is_plain(self) -> bool:
        """Whether the next token is one of the model's own logits', told without the best."""
        params = self.params
        return (
            self.mask is None
            and params.repetition_penalty == 1.0
            and params.presence_penalty == params.frequency_penalty == 0.0
            and not params.logit_bias
            and not params.logprobs
            and self.core.num_generated >= params.min_tokens
        )


def sampling_state(
    params: SamplingParams,
    prompt_ids: Sequence[int],
    end_ids: frozenset[int],
    seed: int,
    mask: TokenMask | None = None,
) -> SamplingState:
    """The state of a request that has generated nothing yet. Raises ValueError for an id below 0.

    `end_ids` are out of reach before `params.min_tokens`.
    """
    core = _C.SamplingState(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=[*params.logit_bias.items()],
        min_tokens=params.min_tokens,
        end_ids=[*end_ids],
        num_top=params.logprobs or 0,
        seed=seed,
        prompt_ids=prompt_ids if params.repetition_penalty != 1.0 else [],
    )
    return SamplingState(core, params, seed, mask)


class Sampler:
    """Draws tokens for rows of one vocabulary; keeps scratch memory, so one thread at a time."""

    def __init__(self, vocab_size: int, team: _C.ThreadPool | None = None, isa: str = "") -> None:
        """Of the first `vocab_size` logits of a row; `team` shares the work.

        `isa` forces "scalar", "avx2" or "avx512". Raises ValueError.
        """
        self._core = _C.Sampler(vocab_size, team, isa)

    def sample(
        self,
        logits: FloatArray,
        states: Sequence[SamplingState],
        masks: Masks | None = None,
    ) -> list[TokenLogprob | None]:
        """The next token for each row of logits [L, >= vocab_size], recorded in its state.

        `masks` are those of the states, if they are at hand. A row has None if there is no token:
        its logits are not finite, or nothing is allowed. Raises ValueError unless there is one
        state for each row of contiguous float32.
        """
        masks = masks_of(states) if masks is None else masks
        drawn = self._core.sample(logits, [state.core for state in states], masks)
        tokens = [
            None if token_id < 0 else TokenLogprob(token_id, logprob, tuple(top))
            for token_id, logprob, top in zip(*drawn, strict=True)
        ]
        if masks:
            _note_generated(states, tokens)
        return tokens


def masks_of(states: Sequence[SamplingState]) -> Masks:
    """What each row allows; empty where no state has a mask."""
    if all(state.mask is None for state in states):
        return []
    return [state.mask.allowed(state.generated_ids) if state.mask else None for state in states]


def _note_generated(states: Sequence[SamplingState], tokens: Sequence[TokenLogprob | None]) -> None:
    for state, token in zip(states, tokens, strict=True):
        if state.mask is not None and token is not None:
            state.generated_ids.append(token.token_id)
