"""Sampler: a row of logits to a token, as the request's params say.

Rows are independent: each request has its own random generator and draws one number per token, so
its text does not depend on its neighbours, on preemption or on the step it ran in.

The order: logit bias, penalties, end tokens before min_tokens, mask, temperature, min-p, top-k,
top-p. Log-probabilities are the model's own, before all of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from picert.engine.sequence import TokenLogprob
from picert.messages import SamplingParams

FloatArray = NDArray[np.float32]

_FIRST_NUCLEUS = 256  # tokens tried for top-p before more are sorted
_LEAST_TEMPERATURE = 1e-6  # below, float32 overflows; it is greedy long before


class TokenMask(Protocol):
    """Which tokens may follow: a grammar, as the sampler sees it."""

    def allowed(self, generated_ids: Sequence[int]) -> NDArray[np.bool_] | None:
        """[vocab_size] of what may come after these; None: everything. Tokens beyond it may not."""
        ...


class SamplingState:
    """What one request's next token depends on besides its logits; `record` follows every token."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        end_ids: frozenset[int],
        seed: int,
        mask: TokenMask | None = None,
    ) -> None:
        self.params = params
        self.mask = mask
        self.generated_ids: list[int] = []
        self._counts: dict[int, int] = {}
        self._seen = set(prompt_ids) if params.repetition_penalty != 1.0 else set()
        self._end_ids = np.array(sorted(end_ids), np.int64)
        self._bias_ids = np.array(list(params.logit_bias), np.int64)
        self._bias = np.array(list(params.logit_bias.values()), np.float32)
        self.rng = np.random.Generator(np.random.Philox(seed)) if params.temperature > 0 else None
        self._has_penalty = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )

    @property
    def is_plain(self) -> bool:
        """The next logits are used as they are."""
        ends_early = len(self.generated_ids) < self.params.min_tokens
        return not (self._has_penalty or len(self._bias) or self.mask or ends_early)

    def record(self, token_id: int) -> None:
        """Take note of the token that was chosen."""
        self.generated_ids.append(token_id)
        if self._has_penalty:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1
            if self.params.repetition_penalty != 1.0:
                self._seen.add(token_id)

    def shape(self, logits: FloatArray) -> FloatArray:
        """A changed copy of logits[V]: bias, penalties, and -inf for what may not come."""
        x: FloatArray = logits.copy()
        x[self._bias_ids] += self._bias
        if self._has_penalty:
            self._penalise_inplace(x)
        if len(self.generated_ids) < self.params.min_tokens:
            x[self._end_ids] = -np.inf
        allowed = self.mask.allowed(self.generated_ids) if self.mask else None
        if allowed is not None:
            allowed = allowed[: len(x)]
            x[: len(allowed)][~allowed] = -np.inf
            x[len(allowed) :] = -np.inf
        return x

    def _penalise_inplace(self, x: FloatArray) -> None:
        params = self.params
        if self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            values = x[ids]
            factor = np.float32(params.repetition_penalty)
            x[ids] = np.where(values > 0, values / factor, values * factor)
        if self._counts:
            ids = np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            x[ids] -= params.frequency_penalty * counts + params.presence_penalty


class Sampler:
    """Draws tokens for rows of one vocabulary; keeps scratch memory, so one thread at a time."""

    def __init__(self, vocab_size: int) -> None:
        self._scratch = np.empty(vocab_size, np.float32)
        self._all_ids = np.arange(vocab_size)

    def sample(self, logits: FloatArray, state: SamplingState) -> TokenLogprob | None:
        """The next token for logits[V], recorded in `state`.

        None if there is none: the logits are not finite, or nothing is allowed.
        """
        best = int(logits.argmax())  # of a NaN, if there is one
        if not math.isfinite(logits[best]):
            return None
        log_total = self._log_sum_exp(logits, logits[best])
        if state.is_plain:
            token_id = best if state.rng is None else self._draw(logits, state)
        else:
            shaped = state.shape(logits)
            token_id = int(shaped.argmax())
            if not math.isfinite(shaped[token_id]):
                return None
            if state.rng is not None:
                token_id = self._draw(shaped, state)
        state.record(token_id)
        top = _best(logits, state.params.logprobs or 0, log_total)
        return TokenLogprob(token_id, float(logits[token_id]) - log_total, top)

    def candidates(
        self, x: FloatArray, params: SamplingParams
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """The tokens that may be drawn from shaped logits x[V], with weights in proportion.

        Tokens that tie with the last of the top k are all in; ties at the border of top-p go by
        token id. The result may be a view of scratch memory, valid until the next call.
        """
        ids, out = self._all_ids, self._scratch
        highest = x.max()
        if 0 < params.top_k < len(x):
            ids = (x >= _largest(x, params.top_k)).nonzero()[0]
            x, out = x[ids], out[: len(ids)]
        weights = np.subtract(x, highest, out=out)
        weights /= np.float32(max(params.temperature, _LEAST_TEMPERATURE))
        np.exp(weights, out=weights)
        if params.min_p > 0:
            kept = (weights >= np.float32(params.min_p)).nonzero()[0]
            ids, weights = ids[kept], weights[kept]
        if params.top_p < 1.0:
            kept = _nucleus(weights, params.top_p)
            ids, weights = ids[kept], weights[kept]
        return ids, weights

    def _draw(self, x: FloatArray, state: SamplingState) -> int:
        assert state.rng is not None
        ids, weights = self.candidates(x, state.params)
        cumulative = weights.cumsum(dtype=np.float64)
        place = int(cumulative.searchsorted(state.rng.random() * cumulative[-1], side="right"))
        return int(ids[min(place, len(ids) - 1)])  # past the end only by rounding

    def _log_sum_exp(self, logits: FloatArray, highest: np.float32) -> float:
        np.subtract(logits, highest, out=self._scratch)
        np.exp(self._scratch, out=self._scratch)
        return float(highest) + math.log(self._scratch.sum())


def _largest(values: FloatArray, n: int) -> float:
    """The n-th largest, without sorting the rest."""
    place = len(values) - n
    return float(np.partition(values, place)[place])


def _nucleus(weights: FloatArray, top_p: float) -> NDArray[np.int64]:
    """Places of the fewest weights that make up `top_p` of the sum, heaviest first.

    Only as many as are needed get sorted: a vocabulary is large and a nucleus mostly small.
    """
    wanted = top_p * float(weights.sum(dtype=np.float64))
    size = _FIRST_NUCLEUS
    while True:
        size = min(size, len(weights))
        places = (weights >= _largest(weights, size)).nonzero()[0]
        places = places[np.argsort(-weights[places], kind="stable")]
        cumulative = weights[places].cumsum(dtype=np.float64)
        if cumulative[-1] >= wanted or size == len(weights):
            return places[: int(cumulative.searchsorted(wanted)) + 1]
        size *= 16


def _best(logits: FloatArray, count: int, log_total: float) -> tuple[tuple[int, float], ...]:
    if count == 0:
        return ()
    count = min(count, len(logits))
    ids = (logits >= _largest(logits, count)).nonzero()[0]
    ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
    return tuple((int(i), float(logits[i]) - log_total) for i in ids)
