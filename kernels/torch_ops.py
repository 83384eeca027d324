"""TorchOps: the operations in plain torch, any device and dtype. The slow, obvious oracle.

float64 inputs are computed in float64 throughout, so that kernels can be compared against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from picert.kernels.ops import AttentionMeta, SamplingRows, Weight
from picert.kernels.quant_weight import QuantWeight, unpack


class TorchOps:
    """Implements `Ops`; stateless."""

    only_launches = False  # attention reads the lengths of contexts

    def embed(self, token_ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """weight[token_ids] of a table [V, E] -> [T, E] in `dtype`."""
        if isinstance(weight, QuantWeight):
            return unpack(weight, token_ids.long()).to(dtype)
        return weight[token_ids.long()].to(dtype)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        """x[T, in] @ weight[out, in]^T + bias[out] -> [T, out]; packed weights in x's dtype."""
        if isinstance(weight, QuantWeight):
            weight = unpack(weight).to(x.dtype)
        return F.linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis; statistics in fp32."""
        wide = _at_least_fp32(x)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return (wide * scale * _at_least_fp32(weight)).to(x.dtype)

    def add_rms_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """s = x + delta, rounded to their dtype -> (s, rms_norm(s)), all [T, E]."""
        total = x + delta
        return total, self.rms_norm(total, weight, eps)

    def rope_inplace(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate pairs (d, d + D/2) of q[T, H, D] and k[T, G, D] by cos, sin [T, D/2]."""
        q.copy_(_rotated(q, cos, sin))
        k.copy_(_rotated(k, cos, sin))

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, [T, F]."""
        return F.silu(gate) * up

    def gelu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """gelu_tanh(gate) * up, [T, F]."""
        return F.gelu(gate, approximate="tanh") * up

    def store_kv_inplace(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """k_cache.view(N * B, G, D)[slot_mapping] = k[T, G, D]; likewise v; no negative slots."""
        is_kept = slot_mapping >= 0
        slots = slot_mapping[is_kept].long()
        for cache, new in ((k_cache, k), (v_cache, v)):
            cache.view(-1, *cache.shape[2:])[slots] = new[is_kept].to(cache.dtype)

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
        out = torch.empty_like(q)
        block_size = k_cache.shape[1]
        starts, lengths = meta.query_start.tolist(), meta.context_lens.tolist()
        for s, length in enumerate(lengths):
            pages = meta.block_tables[s, : -(-length // block_size)].long()
            k = k_cache[pages].flatten(0, 1)[:length]  # [length, G, D]
            v = v_cache[pages].flatten(0, 1)[:length]
            rows = slice(starts[s], starts[s + 1])
            visible = _visible(rows.stop - rows.start, length, sliding_window, q.device)
            out[rows] = _attend(_at_least_fp32(q[rows]) * scale, k, v, visible, soft_cap)
        return out

    def sample(self, logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor]:
        """A token drawn from each row of logits[T, V] -> (token ids, log-probabilities) [T]; all
        in float64."""
        wide = logits.double()
        highest, best = wide.max(dim=1)  # of equal ones the first
        token = torch.where(rows.temperature > 0, _drawn(wide, rows), best)
        logprobs = wide.log_softmax(dim=1).gather(1, token[:, None])[:, 0]
        return torch.where(highest.isfinite(), token, -1).int(), logprobs.float()


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x[T, H, D] with each pair (d, d + D/2) turned by its angle."""
    first, second = _at_least_fp32(x).chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _visible(
    num_queries: int, num_keys: int, sliding_window: int | None, device: torch.device
) -> Tensor:
    """[num_queries, num_keys] bool; the queries are the last positions of the sequence."""
    keys = torch.arange(num_keys, device=device)
    queries = keys[num_keys - num_queries :, None]
    visible = keys <= queries
    if sliding_window is not None:
        visible &= keys > queries - sliding_window
    return visible


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, soft_cap: float | None) -> Tensor:
    """One sequence: scaled q[T, H, D] over k, v [L, G, D] -> [T, H, D]; H / G heads share a key."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (_at_least_fp32(x).transpose(0, 1) for x in (q, k, v))
    k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
    scores = q @ k.transpose(1, 2)  # [H, T, L]
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return (weights @ v).transpose(0, 1)


def _drawn(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Token ids [T] from logits[T, V]: everything sorted, equal ones by id, then cut."""
    vocab = logits.shape[1]
    temperature = rows.temperature.double().clamp(min=1e-6)[:, None]
    sorted_logits, ids = logits.sort(dim=1, descending=True, stable=True)
    weights = ((sorted_logits - sorted_logits[:, :1]) / temperature).exp()
    top_k = torch.where(rows.top_k > 0, rows.top_k, vocab).clamp(max=vocab).long()[:, None]
    kept = (sorted_logits >= sorted_logits.gather(1, top_k - 1)) & (weights >= rows.min_p[:, None])
    weights = weights * kept
    sums = weights.cumsum(dim=1)
    is_nucleus = sums - weights < rows.top_p[:, None] * sums[:, -1:]
    by_id = torch.zeros_like(weights).scatter(1, ids, weights * is_nucleus)
    sums = by_id.cumsum(dim=1)
    return (sums <= rows.uniform[:, None] * sums[:, -1:]).sum(dim=1).clamp(max=vocab - 1)
