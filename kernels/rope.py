"""Rotary position embedding of queries and keys, in place, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from picert.errors import ConfigError
from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work

_HEAD_DIMS = (64, 128, 256)  # what a program has room for
_TILE = 1024  # pairs of a program: 16 bytes of either half for each thread of 4 warps


@triton.jit(do_not_specialize=("num_heads", "num_kv_heads"))
def _rope(
    q_ptr,  # [T, num_heads, head_dim]
    k_ptr,  # [T, num_kv_heads, head_dim]
    cos_ptr,  # [T, head_dim / 2] fp32
    sin_ptr,  # [T, head_dim / 2] fp32
    stride_q_token: tl.int64,
    stride_q_head: tl.int64,
    stride_k_token: tl.int64,
    stride_k_head: tl.int64,
    stride_cos_token: tl.int64,
    num_heads,
    num_kv_heads,
    head_dim,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,  # room for head_dim / 2
):
    """(a, b) <- (a * cos - b * sin, b * cos + a * sin), where b is head_dim / 2 after a."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    pair = tl.arange(0, HALF)
    half = head_dim // 2
    angle = token * stride_cos_token + pair
    cos = tl.load(cos_ptr + angle, mask=pair < half, other=0.0)[None, :]
    sin = tl.load(sin_ptr + angle, mask=pair < half, other=0.0)[None, :]
    num_q_blocks = tl.cdiv(num_heads, HEADS)
    if block < num_q_blocks:
        heads = block * HEADS + tl.arange(0, HEADS)
        rows = q_ptr + token * stride_q_token + heads[:, None] * stride_q_head
        _rotate(rows, cos, sin, pair[None, :], half, (heads < num_heads)[:, None])
    else:
        heads = (block - num_q_blocks) * HEADS + tl.arange(0, HEADS)
        rows = k_ptr + token * stride_k_token + heads[:, None] * stride_k_head
        _rotate(rows, cos, sin, pair[None, :], half, (heads < num_kv_heads)[:, None])


@triton.jit
def _rotate(rows, cos, sin, pair, half, is_head):
    """In place, the heads at `rows` [HEADS, 1]; cos, sin and pair are [1, HALF]."""
    mask = is_head & (pair < half)
    first = tl.load(rows + pair, mask=mask, other=0.0)
    second = tl.load(rows + half + pair, mask=mask, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    tl.store(rows + pair, (a * cos - b * sin).to(first.dtype), mask=mask)
    tl.store(rows + half + pair, (b * cos + a * sin).to(first.dtype), mask=mask)


def _config(head_dim: int) -> Config:
    """Of the smallest room for a head. Raises ConfigError where none is or the size is odd."""
    for room in _HEAD_DIMS:
        if head_dim <= room and head_dim % 2 == 0:
            return KERNEL.config(str(room))
    raise ConfigError(
        f"rope of heads of {head_dim} values, an even number up to {_HEAD_DIMS[-1]} wanted: "
        "use torch_ops"
    )


def _num_blocks(config: Config, *num_heads: int) -> int:
    return sum(triton.cdiv(n, config.constants["HEADS"]) for n in num_heads)


def _work(model: ModelShape, step: StepShape, _: int) -> Work:
    """Queries and keys read and written, cos and sin read."""
    config = _config(model.head_dim)
    pairs = step.num_tokens * (model.num_heads + model.num_kv_heads) * model.head_dim // 2
    return Work(
        config,
        num_programs=step.num_tokens * _num_blocks(config, model.num_heads, model.num_kv_heads),
        bytes=2 * 2 * 2 * pairs + 4 * step.num_tokens * model.head_dim,
        flops=6 * pairs,
    )


KERNEL = Kernel(
    name="rope",
    function=_rope,
    arguments={
        **dict.fromkeys(("q_ptr", "k_ptr"), "*T:16"),
        **dict.fromkeys(("cos_ptr", "sin_ptr"), "*fp32:16"),
        **dict.fromkeys(("stride_q_token", "stride_q_head"), "i64:16"),
        **dict.fromkeys(("stride_k_token", "stride_k_head", "stride_cos_token"), "i64:16"),
        **dict.fromkeys(("num_heads", "num_kv_heads"), "i32"),
        "head_dim": "i32:16",
    },
    configs=tuple(
        Config(str(room), {"HEADS": _TILE // (room // 2), "HALF": room // 2}, num_warps=4)
        for room in _HEAD_DIMS
    ),
    work=_work,
)


def rope_inplace(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate pairs (d, d + D/2) of q[T, H, D] and k[T, G, D] by cos, sin [T, D/2] in fp32.

    The values of a head are consecutive. Raises ConfigError for a head size that has no kernel.
    """
    num_tokens, num_heads, head_dim = q.shape
    config = _config(head_dim)
    grid = (num_tokens, _num_blocks(config, num_heads, k.shape[1]))
    strides = (*q.stride()[:2], *k.stride()[:2], cos.stride(0))
    sizes = (num_heads, k.shape[1], head_dim)
    KERNEL.launch(config, grid, q, k, cos, sin, *strides, *sizes)
