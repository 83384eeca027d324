"""Draws: which rows of a step a device draws from by itself, and what it must know for that.

A row whose token follows from its logits, its parameters and one number, and of which only the
chosen token is told, need not come to the host. Rows with penalties, biases, masks or a least
length, and those of which the best tokens are told, do: csrc/sample is for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from picert import _C
from picert.engine.batch import Int32Array
from picert.engine.sampler import FloatArray, SamplingState
from picert.messages import TokenLogprob

NUM_COLUMNS = 5  # of what `Draws.write` writes
_BELOW_ONE = np.float32(1.0 - 2.0**-24)
_LEAST = np.finfo(np.float32).tiny  # a top-p that rounds to 0 would leave nothing


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a device drew. Rows that it was not to draw from mean nothing."""

    token_ids: Int32Array  # [R], -1: the logits are not finite
    logprobs: FloatArray  # [R], the model's own


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What comes to the host of a step, valid until the next one."""

    logits: FloatArray  # [M, V] of the wanted rows that were not drawn from, in order
    drawn: Drawn | None = None  # of the rows of Draws


@dataclass(frozen=True, slots=True)
class Draws:
    """Of the first R rows of a step's logits."""

    states: Sequence[SamplingState]  # [R]
    is_drawn: NDArray[np.bool_]  # [R]; the others come to the host
    is_behind: NDArray[np.bool_]  # [R]; a token of the text before this one is not known yet
    vocab_size: int  # tokens that may be drawn: models have logits for more

    @property
    def on_host(self) -> list[SamplingState]:
        """States of the rows that come to the host."""
        return [state for state, is_drawn in self._rows() if not is_drawn]

    def host_rows(self, num_logits: int) -> NDArray[np.intp]:
        """Of `num_logits` rows those that come to the host: all behind the first R do."""
        behind = np.arange(len(self.states), num_logits)
        return np.concatenate((np.flatnonzero(~self.is_drawn), behind))

    def write(self, out: Int32Array) -> None:
        """Put the bits of `kernels.ops.SamplingRows`, a column a row, into out[NUM_COLUMNS, R].

        Rows that come to the host are greedy here, which is least work.
        """
        floats = out.view(np.float32)
        params = [state.params for state in self.states]
        floats[0] = np.where(self.is_drawn, [p.temperature for p in params], 0.0)
        out[1] = [min(p.top_k, self.vocab_size) for p in params]
        floats[2] = np.maximum([p.top_p for p in params], _LEAST)
        floats[3] = [p.min_p for p in params]
        numbers = [
            _number(state, is_behind) if is_drawn else 0.0
            for (state, is_drawn), is_behind in zip(
                self._rows(), self.is_behind.tolist(), strict=True
            )
        ]
        floats[4] = np.minimum(np.array(numbers, np.float32), _BELOW_ONE)

    def join(
        self, on_host: list[TokenLogprob | None], drawn: Drawn | None
    ) -> list[TokenLogprob | None]:
        """Each row's token or None, in order, from those of the host and those of the device, which
        are recorded in their states."""
        if drawn is None:
            return on_host
        rest = iter(on_host)
        values = zip(drawn.token_ids.tolist(), drawn.logprobs.tolist(), strict=True)
        return [
            _recorded(state, *value) if is_drawn else next(rest)
            for (state, is_drawn), value in zip(self._rows(), values, strict=True)
        ]

    def _rows(self) -> zip[tuple[SamplingState, bool]]:
        return zip(self.states, self.is_drawn.tolist(), strict=True)


def draws_of(
    states: Sequence[SamplingState],
    vocab_size: int,
    *,
    can_draw: bool,
    is_behind: NDArray[np.bool_] | None = None,
) -> Draws:
    """Of rows with these states on a device that can draw, or cannot.

    States that are behind (none if not given) do not count a token that is being drawn. Nothing
    else in them waits for it: a row that is drawn from once is so for good.
    """
    is_drawn = np.array([can_draw and state.is_plain for state in states], np.bool_)
    is_behind = np.zeros(len(states), np.bool_) if is_behind is None else is_behind
    return Draws(states, is_drawn, is_behind, vocab_size)


def _number(state: SamplingState, is_behind: bool) -> float:
    """The draw that the host would make, from the same stream."""
    if state.params.temperature == 0.0:
        return 0.0
    return _C.philox_uniform(state.seed, state.core.num_generated + is_behind)


def _recorded(state: SamplingState, token_id: int, logprob: float) -> TokenLogprob | None:
    if token_id < 0:
        return None
    state.core.record(token_id)
    return TokenLogprob(token_id, logprob)
