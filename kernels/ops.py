"""The operations a decoder is written over: `torch_ops` is their meaning, `triton_ops` for GPUs.

Letters: T tokens of the step, S sequences, H query heads, G key/value heads, D head size, E model
size, F ffn size, N blocks, B block size. K/V caches are [N, B, G, D]; token t of the step lives at
slot = block_id * B + offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from picert.kernels.quant_weight import QuantWeight
from picert.kernels.shared_prefix import SharedPrefixes

Weight = Tensor | QuantWeight  # of a matrix: [out, in]


@dataclass(frozen=True, slots=True)
class AttentionMeta:
    """Where the step's tokens stand in their sequences and in the paged cache.

    All tensors int32 on the step's device.
    """

    slot_mapping: Tensor  # [T] negative: the token is only there to fill up, and goes nowhere
    query_start: (
        Tensor  # [S + 1] the step's tokens of sequence s are query_start[s] : query_start[s + 1]
    )
    context_lens: Tensor  # [S] tokens of the sequence that are in the cache after this step
    block_tables: Tensor  # [S, max_blocks] padded with 0
    max_query_len: int
    max_context_len: int
    num_decodes: int = 0  # at least so many sequences at the front have one token in the step
    shared_prefixes: SharedPrefixes | None = None  # that sequences with one query begin with


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """How each row is to be drawn from; all tensors [T] on the device of the logits."""

    temperature: Tensor  # fp32, 0 is greedy
    top_k: Tensor  # int32, 0 for all
    top_p: Tensor  # fp32
    min_p: Tensor  # fp32
    uniform: Tensor  # fp32 in [0, 1): draw n of the row's seed


class Ops(Protocol):
    """What a back end provides. Nothing keeps state; only `_inplace` writes to an argument."""

    @property
    def only_launches(self) -> bool:
        """Whether a step only launches work on its device, so that it can be captured as a graph:
        the host reads no tensor and decides nothing by one.
        """
        ...

    def embed(self, token_ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """weight[token_ids] of a table [V, E] -> [T, E] in `dtype`."""
        ...

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        """x[T, in] @ weight[out, in]^T + bias[out] -> [T, out]; packed weights in x's dtype."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis; statistics in fp32."""
        ...

    def add_rms_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """s = x + delta, rounded to their dtype -> (s, rms_norm(s)), all [T, E]."""
        ...

    def rope_inplace(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate pairs (d, d + D/2) of q[T, H, D] and k[T, G, D] by cos, sin [T, D/2]."""
        ...

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, [T, F]."""
        ...

    def gelu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """gelu_tanh(gate) * up, [T, F]."""
        ...

    def store_kv_inplace(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """k_cache.view(N * B, G, D)[slot_mapping] = k[T, G, D]; likewise v; no negative slots."""
        ...

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: AttentionMeta,
        *,
        scale: float,
        sliding_window: int | None,
        soft_cap: float | None,
    ) -> Tensor:
        """Causal attention of q[T, H, D] over each sequence's pages -> [T, H, D]; softmax in fp32.

        A query at position p sees positions max(0, p - sliding_window + 1) to p; scores pass
        cap * tanh(s / cap) first.
        """
        ...

    def sample(self, logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor]:
        """A token drawn from each row of logits[T, V] in fp32 -> (token ids [T] int32, their
        log-probabilities [T] fp32 by the logits as they are, at temperature 1).

        Id -1, and no meaning of the other, for a row that has a NaN or whose largest is infinite.
        """
        ...
