"""The slow, obvious twin of csrc/sample: one row in float64, everything sorted.

The order: logit bias, penalties, end tokens before min_tokens, mask, temperature, min-p, top-k,
top-p. Log-probabilities are the model's own, before all of that. A draw is the inverse of the
cumulative distribution over the tokens that are left, in order of id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from picert.engine.sampler import TokenMask
from picert.messages import SamplingParams, TokenLogprob

Wide = NDArray[np.float64]


@dataclass
class NaiveState:
    """Everything that a request's next token depends on besides its logits."""

    params: SamplingParams
    prompt_ids: Sequence[int] = ()
    end_ids: frozenset[int] = frozenset()
    seed: int = 0
    mask: TokenMask | None = None
    generated_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.Generator(np.random.Philox(key=self.seed))


def log_softmax(x: NDArray[np.float32]) -> Wide:
    """Of one row."""
    wide = x.astype(np.float64)
    return np.asarray(wide - wide.max() - math.log(np.exp(wide - wide.max()).sum()))


def shaped(logits: NDArray[np.float32], state: NaiveState) -> Wide:
    """The logits after bias, penalties and bans."""
    x, params = logits.astype(np.float64), state.params
    for token, bias in params.logit_bias.items():
        x[token] += bias
    if params.repetition_penalty != 1.0:
        for token in {*state.prompt_ids, *state.generated_ids}:
            factor = params.repetition_penalty
            x[token] = x[token] / factor if x[token] > 0 else x[token] * factor
    for token in set(state.generated_ids):
        times = state.generated_ids.count(token)
        x[token] -= params.frequency_penalty * times + params.presence_penalty
    if len(state.generated_ids) < params.min_tokens:
        x[[*state.end_ids]] = -np.inf
    allowed = state.mask.allowed(state.generated_ids) if state.mask else None
    if allowed is not None:
        may_come = np.zeros(len(x), np.bool_)
        may_come[: len(allowed)] = allowed[: len(x)]
        x[~may_come] = -np.inf
    return x


def chances(x: NDArray[np.floating], params: SamplingParams) -> Wide:
    """Of every token of shaped logits x[V]: sort, filter in turn, renormalise."""
    z = x.astype(np.float64) / params.temperature
    p = np.exp(z - z.max())
    p /= p.sum()
    order = sorted(range(len(x)), key=lambda i: (-p[i], i))
    order = [i for i in order if p[i] >= params.min_p * p[order[0]]]
    if params.top_k:
        kth = x[order[min(params.top_k, len(order)) - 1]]
        order = [i for i in order if x[i] >= kth]
    if params.top_p < 1.0:
        before = np.cumsum([0.0, *(p[i] for i in order)])
        order = [i for i, b in zip(order, before, strict=False) if b < params.top_p * before[-1]]
    kept = np.zeros_like(p)
    kept[order] = p[order]
    return np.asarray(kept / kept.sum())


def sample(logits: NDArray[np.float32], state: NaiveState) -> TokenLogprob | None:
    """The next token, recorded in `state`; None if the logits are not finite or none may come."""
    x = shaped(logits, state)
    if np.isnan(logits).any() or logits.max() == np.inf or x.max() == -np.inf:
        return None
    token = int(x.argmax())
    if state.params.temperature > 0:
        cumulative = chances(x, state.params).cumsum()
        token = int(cumulative.searchsorted(state.rng.random(), side="right"))
    state.generated_ids.append(token)
    logprobs = log_softmax(logits)
    best = np.argsort(-logprobs, kind="stable")[: state.params.logprobs or 0]
    top = tuple((int(i), float(logprobs[i])) for i in best)
    return TokenLogprob(token, float(logprobs[token]), top)
