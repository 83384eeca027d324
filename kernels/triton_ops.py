"""TritonOps: the operations on a GPU, or anywhere under Triton's interpreter.

Products with plain weights are torch's own; everything else is a kernel of this folder.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from picert.kernels import rms_norm as norms
from picert.kernels import rope, silu_mul, store_kv
from picert.kernels import sample as sampling
from picert.kernels.ops import AttentionMeta, SamplingRows, Weight
from picert.kernels.paged_decode import paged_decode
from picert.kernels.paged_prefill import paged_prefill
from picert.kernels.quant_linear import quant_linear
from picert.kernels.quant_weight import QuantWeight, unpack
from picert.kernels.registry import KERNELS


class TritonOps:
    """Implements `Ops`; stateless."""

    @property
    def only_launches(self) -> bool:
        """Unless the kernels are interpreted."""
        return all(isinstance(kernel.function, triton.JITFunction) for kernel in KERNELS)

    def embed(self, token_ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """weight[token_ids] of a table [V, E] -> [T, E] in `dtype`."""
        if isinstance(weight, QuantWeight):
            return unpack(weight, token_ids.long()).to(dtype)
        return weight[token_ids.long()].to(dtype)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        """x[T, in] @ weight[out, in]^T + bias[out] -> [T, out]; packed weights in x's dtype."""
        if isinstance(weight, QuantWeight):
            return quant_linear(x, weight, bias)
        return F.linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis; statistics in fp32."""
        return norms.rms_norm(x, weight, eps)

    def add_rms_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """s = x + delta, rounded to their dtype -> (s, rms_norm(s)), all [T, E]."""
        return norms.add_rms_norm(x, delta, weight, eps)

    def rope_inplace(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate pairs (d, d + D/2) of q[T, H, D] and k[T, G, D] by cos, sin [T, D/2]."""
        rope.rope_inplace(q, k, cos, sin)

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, [T, F]."""
        return silu_mul.silu_mul(gate, up)

    def gelu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """gelu_tanh(gate) * up, [T, F]."""
        return silu_mul.gelu_mul(gate, up)

    def store_kv_inplace(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """k_cache.view(N * B, G, D)[slot_mapping] = k[T, G, D]; likewise v; no negative slots."""
        store_kv.store_kv_inplace(k, v, k_cache, v_cache, slot_mapping)

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
        """Causal attention of q[T, H, D] over each sequence's pages -> [T, H, D].

        The leading sequences with one query go to paged_decode, what follows to paged_prefill.
        """
        options: dict[str, Any] = {
            "scale": scale,
            "sliding_window": sliding_window,
            "soft_cap": soft_cap,
        }
        out = torch.empty_like(q)
        if meta.num_decodes:
            count = meta.num_decodes
            caches = k_cache, v_cache
            paged_decode(q[:count], *caches, _decodes(meta), **options, out=out[:count])
        if meta.num_decodes < len(meta.context_lens):
            paged_prefill(q, k_cache, v_cache, _prompts(meta), **options, out=out)
        return out

    def sample(self, logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor]:
        """A token drawn from each row of logits[T, V] -> (token ids, log-probabilities) [T]."""
        return sampling.sample(logits, rows)


def _decodes(meta: AttentionMeta) -> AttentionMeta:
    """Of the leading sequences with one token each."""
    count = meta.num_decodes
    return replace(
        meta,
        slot_mapping=meta.slot_mapping[:count],
        query_start=meta.query_start[: count + 1],
        context_lens=meta.context_lens[:count],
        block_tables=meta.block_tables[:count],
        max_query_len=1,
    )


def _prompts(meta: AttentionMeta) -> AttentionMeta:
    """Of the sequences after them, whose queries stand where they do."""
    count = meta.num_decodes
    return replace(
        meta,
        slot_mapping=meta.slot_mapping[count:],
        query_start=meta.query_start[count:],
        context_lens=meta.context_lens[count:],
        block_tables=meta.block_tables[count:],
        shared_prefixes=None,
        num_decodes=0,
    )
