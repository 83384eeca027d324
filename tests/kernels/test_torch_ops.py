"""The plain torch operations against formulas written out by hand, in float64."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from picert.kernels.ops import AttentionMeta
from picert.kernels.quant_weight import pack, quantize
from picert.kernels.torch_ops import TorchOps

OPS = TorchOps()
BLOCK_SIZE, NUM_BLOCKS, HEADS, KV_HEADS, HEAD_DIM = 4, 32, 6, 2, 8


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def int32(values: list[int] | list[list[int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def paged(lengths: list[int], query_lens: list[int]) -> tuple[Tensor, Tensor, AttentionMeta]:
    """Filled caches and the meta of sequences whose blocks are scattered."""
    order = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(3)).tolist()
    widest = max(-(-length // BLOCK_SIZE) for length in lengths)
    tables = [[order.pop() for _ in range(-(-n // BLOCK_SIZE))] for n in lengths]
    starts = [0]
    for n in query_lens:
        starts.append(starts[-1] + n)
    meta = AttentionMeta(
        slot_mapping=int32([]),
        query_start=int32(starts),
        context_lens=int32(lengths),
        block_tables=int32([(table + [0] * widest)[:widest] for table in tables]),
        max_query_len=max(query_lens),
        max_context_len=max(lengths),
    )
    shape = (NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM)
    return noise(*shape, seed=1), noise(*shape, seed=2), meta


def attention_by_hand(
    q: Tensor,
    caches: tuple[Tensor, Tensor],
    meta: AttentionMeta,
    window: int | None,
    cap: float | None,
) -> Tensor:
    """One query, one head and one key at a time."""
    out = torch.zeros_like(q)
    for s, length in enumerate(meta.context_lens.tolist()):
        begin, end = meta.query_start[s : s + 2].tolist()
        for row in range(begin, end):
            position = length - (end - row)
            first = 0 if window is None else max(0, position - window + 1)
            for head in range(HEADS):
                kv_head = head // (HEADS // KV_HEADS)
                scores, values = [], []
                for p in range(first, position + 1):
                    block = int(meta.block_tables[s, p // BLOCK_SIZE])
                    at = (block, p % BLOCK_SIZE, kv_head)
                    score = float(q[row, head] @ caches[0][at]) * 0.3
                    scores.append(score if cap is None else cap * math.tanh(score / cap))
                    values.append(caches[1][at])
                weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
                out[row, head] = (weights[:, None] * torch.stack(values)).sum(0)
    return out


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_attention_is_causal_softmax_over_each_sequence(
    window: int | None, cap: float | None
) -> None:
    k_cache, v_cache, meta = paged(lengths=[1, 13, 8, 4], query_lens=[1, 5, 1, 4])
    q = noise(11, HEADS, HEAD_DIM, seed=4)
    ours = OPS.attention(q, k_cache, v_cache, meta, scale=0.3, sliding_window=window, soft_cap=cap)
    by_hand = attention_by_hand(q, (k_cache, v_cache), meta, window, cap)
    torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=1e-12)


def test_attention_reads_only_its_own_blocks() -> None:
    k_cache, v_cache, meta = paged(lengths=[6, 9], query_lens=[1, 9])
    q = noise(10, HEADS, HEAD_DIM, seed=4)
    arguments = {"scale": 0.3, "sliding_window": None, "soft_cap": None}
    before = OPS.attention(q, k_cache, v_cache, meta, **arguments)
    owned = {*meta.block_tables[0, :2].tolist(), *meta.block_tables[1].tolist()}
    others = [block for block in range(NUM_BLOCKS) if block not in owned]
    k_cache[others] = float("nan")
    v_cache[others] = float("nan")
    k_cache[int(meta.block_tables[0, 1]), 2:] = float("nan")  # beyond the sixth token
    torch.testing.assert_close(OPS.attention(q, k_cache, v_cache, meta, **arguments), before)


def test_attention_in_half_precision_rounds_only_at_the_end() -> None:
    k_cache, v_cache, meta = paged(lengths=[12], query_lens=[12])
    q = noise(12, HEADS, HEAD_DIM, seed=4).bfloat16()
    k16, v16 = k_cache.bfloat16(), v_cache.bfloat16()
    arguments = {"scale": 0.3, "sliding_window": None, "soft_cap": None}
    ours = OPS.attention(q, k16, v16, meta, **arguments)
    exact = OPS.attention(q.double(), k16.double(), v16.double(), meta, **arguments)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-5)


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    x, weight = noise(5, 3, 16), noise(16, seed=1)
    mean_square = (x * x).sum(-1, keepdim=True) / 16
    torch.testing.assert_close(
        OPS.rms_norm(x, weight, 1e-5), x / (mean_square + 1e-5).sqrt() * weight
    )


def test_rms_norm_of_half_precision_does_not_overflow() -> None:
    x = torch.full((2, 64), 1000.0, dtype=torch.float16)  # its square is not a float16
    weight = torch.ones(64, dtype=torch.float16)
    torch.testing.assert_close(OPS.rms_norm(x, weight, 1e-6), torch.ones_like(x))


def test_rope_turns_each_pair_by_its_angle() -> None:
    q, k = noise(3, HEADS, HEAD_DIM), noise(3, KV_HEADS, HEAD_DIM, seed=1)
    angles = noise(3, HEAD_DIM // 2, seed=2)
    before = (q.clone(), k.clone())
    OPS.rope_inplace(q, k, angles.cos(), angles.sin())
    for old, new in zip(before, (q, k), strict=True):
        turned = torch.complex(*old.chunk(2, dim=-1)) * torch.exp(1j * angles)[:, None]
        torch.testing.assert_close(new, torch.cat((turned.real, turned.imag), dim=-1))


def test_gates_are_silu_and_tanh_gelu() -> None:
    gate, up = noise(4, 7), noise(4, 7, seed=1)
    silu = gate / (1 + torch.exp(-gate))
    gelu = 0.5 * gate * (1 + torch.tanh((2 / math.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
    torch.testing.assert_close(OPS.silu_mul(gate, up), silu * up)
    torch.testing.assert_close(OPS.gelu_mul(gate, up), gelu * up)


def test_store_writes_the_named_slots_and_no_other() -> None:
    k, v = noise(3, KV_HEADS, HEAD_DIM), noise(3, KV_HEADS, HEAD_DIM, seed=1)
    caches = [torch.zeros(NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM) for _ in range(2)]
    slots = [5, 127, 0]
    OPS.store_kv_inplace(k, v, caches[0], caches[1], int32(slots))
    for cache, new in zip(caches, (k, v), strict=True):
        for row, slot in enumerate(slots):
            stored = cache[slot // BLOCK_SIZE, slot % BLOCK_SIZE]
            torch.testing.assert_close(stored, new[row].float())
        assert cache.count_nonzero() == new.numel()


def test_linear_adds_its_bias() -> None:
    x, weight, bias = noise(3, 5), noise(4, 5, seed=1), noise(4, seed=2)
    torch.testing.assert_close(OPS.linear(x, weight, bias), x @ weight.T + bias)
    torch.testing.assert_close(OPS.linear(x, weight, None), x @ weight.T)


def test_fused_norm_is_the_norm_of_the_rounded_sum() -> None:
    x, delta = (noise(3, 16, seed=seed, dtype=torch.float16) for seed in (0, 1))
    weight = noise(16, seed=2, dtype=torch.float16)
    total, normed = OPS.add_rms_norm(x, delta, weight, 1e-5)
    assert torch.equal(total, x + delta)
    assert torch.equal(normed, OPS.rms_norm(total, weight, 1e-5))


def test_tokens_with_negative_slots_are_stored_nowhere() -> None:
    caches = [torch.zeros(2, 4, 1, 2) for _ in range(2)]
    new = torch.ones(3, 1, 2)
    OPS.store_kv_inplace(new, 2 * new, caches[0], caches[1], int32([-1, 5, -1]))
    for cache, value in zip(caches, (1, 2), strict=True):
        assert cache.view(8, 2)[5].tolist() == [value, value]
        assert float(cache.sum()) == 2 * value


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_those_of_their_codes(bits: Literal[4, 8]) -> None:
    codes = quantize(noise(5, 64, dtype=torch.float32), bits)
    weight, values = pack(codes), codes.dequantize()
    x = noise(3, 64, seed=1)
    torch.testing.assert_close(OPS.linear(x, weight, None), x @ values.t(), rtol=1e-2, atol=1e-2)
    rows = OPS.embed(int32([4, 0]), weight, torch.float64)
    torch.testing.assert_close(rows, values[[4, 0]], rtol=1e-3, atol=1e-3)
