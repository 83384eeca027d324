"""What the kernels of attention have in common: a tile of paged keys folded into a running softmax,
and the numbers that their launchers derive from the arguments of `Ops.attention`.

Dot products meet their scale inside the exponent: exp2(dot * unit - highest), where unit is
scale * log2(e), is one multiply-add and one instruction of the special function unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from picert.errors import ConfigError

# `highest` of a row that has seen no key. Finite, so that no difference of two of them is NaN, and
# below any score that is.
LOWEST = tl.constexpr(-1e30)
NO_WINDOW = 2**30  # wider than any context; position - NO_WINDOW + 1 still is an int32
ROOMS = (64, 128, 256)  # dimensions that a tile has room for; heads of 80 and 96 take the second


@triton.jit
def block_ids(
    table_ptr,  # [max_blocks] int32, of the sequence
    keys,  # [KEYS] positions
    begin,  # positions that are read at all
    end,
    block_shift,
):
    """[KEYS] int32: the block of the cache that holds each position; 0 for those not read."""
    is_read = (keys >= begin) & (keys < end)
    return tl.load(table_ptr + (keys >> block_shift), mask=is_read, other=0)


@triton.jit
def fold_tile(
    q,  # [ROWS, DIM]
    k_ptr,  # [N, B, D] of one head
    v_ptr,  # [N, B, D]
    stride_block,
    stride_slot,
    blocks,  # [KEYS] that hold `keys`
    keys,  # [KEYS] positions
    begin,  # positions that are read: others may hold anything, NaN too
    end,
    head_dim,
    block_shift,
    oldest,  # [ROWS] first and last position that each row sees
    newest,  # [ROWS]
    is_whole,  # whether every row sees every key of the tile
    unit,
    cap_unit,  # 0 without a soft cap
    highest,  # [ROWS] fp32: largest score so far, in units of the exponent
    total,  # [ROWS] fp32: sum of exp2(score - highest)
    sums,  # [ROWS, DIM] fp32: the same with the values
    DIM: tl.constexpr,
):
    """(highest, total, sums) with one more tile.

    Both branches are the same for a whole program: a tile at no border pays for no mask.
    """
    dims = tl.arange(0, DIM)[None, :]
    is_read = ((keys >= begin) & (keys < end))[:, None] & (dims < head_dim)
    slots = keys & ((1 << block_shift) - 1)
    # A cache may hold more than 2^31 values.
    places = (blocks.to(tl.int64) * stride_block + slots * stride_slot)[:, None] + dims
    k = tl.load(k_ptr + places, mask=is_read, other=0.0)
    scores = tl.dot(q, tl.trans(k))
    if cap_unit > 0:
        scores = 1 - 2 / (1 + tl.exp2(scores * cap_unit))  # tanh; `unit` has the cap
    if not is_whole:
        is_seen = (keys[None, :] >= oldest[:, None]) & (keys[None, :] <= newest[:, None])
        scores = tl.where(is_seen, scores, float("-inf"))
    before = highest
    highest = tl.maximum(before, tl.max(scores, axis=1) * unit)
    weights = tl.exp2(scores * unit - highest[:, None])
    decay = tl.exp2(before - highest)
    total = total * decay + tl.sum(weights, axis=1)
    v = tl.load(v_ptr + places, mask=is_read, other=0.0)
    sums = tl.dot(weights.to(v.dtype), v, sums * decay[:, None])
    return highest, total, sums


@dataclass(frozen=True, slots=True)
class Softmax:
    """What one layer's attention does to a dot product, as the kernels take it."""

    window: int
    unit: float  # exp2(score * unit) is a weight
    cap_unit: float  # exp2(dot * cap_unit) is exp(2 * capped angle); 0: the dot is the score

    @classmethod
    def of(cls, scale: float, sliding_window: int | None, soft_cap: float | None) -> Softmax:
        """Raises ConfigError where one of them is not above 0."""
        for name, value in (
            ("scale", scale),
            ("sliding_window", sliding_window),
            ("soft_cap", soft_cap),
        ):
            if value is not None and not value > 0:
                raise ConfigError(f"attention has {name} {value}, a number above 0 wanted")
        window = min(sliding_window or NO_WINDOW, NO_WINDOW)
        if soft_cap is None:
            return cls(window, scale * math.log2(math.e), 0.0)
        return cls(window, soft_cap * math.log2(math.e), 2 * scale / soft_cap * math.log2(math.e))

    @property
    def arguments(self) -> tuple[int, float, float]:
        """In the order of the kernels."""
        return self.window, self.unit, self.cap_unit


def softmax_work(num_scores: int) -> dict[str, int]:
    """Of a Work: per score two products, two sums and a maximum, and an exponential."""
    return {"flops": 5 * num_scores, "exponentials": num_scores}


def room_for(head_dim: int) -> int:
    """Dimensions of the smallest tile that holds a head. Raises ConfigError where none does."""
    for room in ROOMS:
        if head_dim <= room:
            return room
    raise ConfigError(f"attention of heads of {head_dim} values, at most {ROOMS[-1]} wanted")


def room_of(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> int:
    """`room_for` what is given. Raises ConfigError for blocks and strides that have no kernel."""
    block_size = k_cache.shape[1]
    if block_size & (block_size - 1):
        raise ConfigError(
            f"block_size is {block_size}, a power of two wanted on a GPU: set it to 16"
        )
    if k_cache.stride() != v_cache.stride() or any(x.stride(-1) != 1 for x in (q, k_cache)):
        raise ConfigError(
            f"queries and caches have strides {q.stride()}, {k_cache.stride()} and "
            f"{v_cache.stride()}: consecutive values and equal strides of both caches wanted"
        )
    return room_for(q.shape[-1])
