"""The step's keys and values into the paged cache."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work

_COLS = 1024  # of a program: 16 bytes of k and of v for each thread of 4 warps


@triton.jit
def _store_kv(
    k_ptr,  # [T, num_cols], a token's heads one after the other
    v_ptr,  # [T, num_cols]
    k_cache_ptr,  # [num_slots, num_cols]
    v_cache_ptr,  # [num_slots, num_cols]
    slot_ptr,  # [T] int32
    stride_k_token: tl.int64,
    stride_v_token: tl.int64,
    stride_cache_slot: tl.int64,
    num_cols,
    COLS: tl.constexpr,
):
    """cache[slot[t]] = new[t], for k and v; a token whose slot is negative goes nowhere."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    slot = tl.load(slot_ptr + token).to(tl.int64)
    mask = (cols < num_cols) & (slot >= 0)
    k = tl.load(k_ptr + token * stride_k_token + cols, mask=mask)
    v = tl.load(v_ptr + token * stride_v_token + cols, mask=mask)
    tl.store(k_cache_ptr + slot * stride_cache_slot + cols, k, mask=mask)
    tl.store(v_cache_ptr + slot * stride_cache_slot + cols, v, mask=mask)


def _work(model: ModelShape, step: StepShape, _: int) -> Work:
    """K and V read and written, and a slot for each token."""
    cols = model.num_kv_heads * model.head_dim
    return Work(
        KERNEL.configs[0],
        num_programs=step.num_tokens * triton.cdiv(cols, _COLS),
        bytes=step.num_tokens * (2 * 2 * 2 * cols + 4),
    )


KERNEL = Kernel(
    name="store_kv",
    function=_store_kv,
    arguments={
        **dict.fromkeys(("k_ptr", "v_ptr", "k_cache_ptr", "v_cache_ptr"), "*T:16"),
        "slot_ptr": "*i32:16",
        **dict.fromkeys(("stride_k_token", "stride_v_token", "stride_cache_slot"), "i64:16"),
        "num_cols": "i32:16",
    },
    configs=(Config(str(_COLS), {"COLS": _COLS}, num_warps=4, warps_per_sm=32),),
    work=_work,
)


def store_kv_inplace(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> None:
    """k_cache.view(N * B, G, D)[slot_mapping] = k[T, G, D]; likewise v.

    Both caches [N, B, G, D] are contiguous and of the dtype of k and v. Negative slots, which pad
    a captured batch, are left out.
    """
    rows = [new.flatten(1) for new in (k, v)]
    caches = [cache.view(-1, rows[0].shape[1]) for cache in (k_cache, v_cache)]
    num_tokens, num_cols = rows[0].shape
    strides = (rows[0].stride(0), rows[1].stride(0), caches[0].stride(0))
    grid = (num_tokens, triton.cdiv(num_cols, _COLS))
    KERNEL.launch(KERNEL.configs[0], grid, *rows, *caches, slot_mapping, *strides, num_cols)
