"""RMS norm over the last axis, alone or with the residual addition before it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from picert.errors import ConfigError
from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work

_HEAD_COLS = (64, 128, 256)  # q_norm and k_norm
_MODEL_COLS = (1024, 2048, 4096, 8192, 16384)
_MIN_TILE = 2048  # elements of a program: 16 bytes for each thread of 4 warps, twice over


@triton.jit(do_not_specialize=("num_rows",))
def _rms_norm(
    x_ptr,  # [num_rows, num_cols]
    delta_ptr,  # [num_rows, num_cols], read if ADD
    weight_ptr,  # [num_cols]
    sum_ptr,  # [num_rows, num_cols], written if ADD
    out_ptr,  # [num_rows, num_cols]
    stride_x_row: tl.int64,
    stride_delta_row: tl.int64,
    stride_sum_row: tl.int64,
    stride_out_row: tl.int64,
    num_rows,
    num_cols,
    eps,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """out = s / sqrt(mean(s^2) + eps) * weight, where s = x, or x + delta if ADD (also stored)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, COLS)[None, :]
    mask = (rows < num_rows) & (cols < num_cols)
    x = tl.load(x_ptr + rows * stride_x_row + cols, mask=mask, other=0.0)
    if ADD:
        delta = tl.load(delta_ptr + rows * stride_delta_row + cols, mask=mask, other=0.0)
        # Rounded before it is normed: the next layer adds to the stored sum.
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + rows * stride_sum_row + cols, x, mask=mask)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / num_cols + eps)
    weight = tl.load(weight_ptr + cols, mask=cols < num_cols, other=0.0).to(tl.float32)
    out = wide * scale[:, None] * weight
    tl.store(out_ptr + rows * stride_out_row + cols, out.to(x.dtype), mask=mask)


def _name(cols: int, add: bool) -> str:
    return f"{'add_' if add else ''}{cols}"


def _configs() -> tuple[Config, ...]:
    """A row in one program's registers, at most 32 values a thread; short rows share a program."""
    return tuple(
        Config(
            name=_name(cols, add),
            constants={"ADD": add, "ROWS": max(1, _MIN_TILE // cols), "COLS": cols},
            num_warps=max(4, min(16, cols // 1024)),
        )
        for add, widths in ((False, (*_HEAD_COLS, *_MODEL_COLS)), (True, _MODEL_COLS))
        for cols in widths
    )


def _config(num_cols: int, *, add: bool) -> Config:
    """Of the narrowest width that holds a row. Raises ConfigError where none does."""
    widths = _MODEL_COLS if add else (*_HEAD_COLS, *_MODEL_COLS)
    for cols in widths:
        if num_cols <= cols:
            return KERNEL.config(_name(cols, add))
    raise ConfigError(f"rms_norm over {num_cols} values, at most {widths[-1]}: use torch_ops")


def _work(model: ModelShape, step: StepShape, _: int) -> Work:
    """The fused norm before each feed-forward part: two rows read, two written, and the weight."""
    config = _config(model.hidden, add=True)
    values = step.num_tokens * model.hidden
    return Work(
        config,
        num_programs=triton.cdiv(step.num_tokens, config.constants["ROWS"]),
        bytes=2 * (4 * values + model.hidden),
        flops=5 * values,
    )


KERNEL = Kernel(
    name="rms_norm",
    function=_rms_norm,
    arguments={
        **dict.fromkeys(("x_ptr", "delta_ptr", "weight_ptr", "sum_ptr", "out_ptr"), "*T:16"),
        "stride_x_row": "i64:16",
        "stride_delta_row": "i64:16",
        "stride_sum_row": "i64:16",
        "stride_out_row": "i64:16",
        "num_rows": "i32",
        "num_cols": "i32:16",
        "eps": "fp32",
    },
    configs=_configs(),
    work=_work,
)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; statistics in fp32.

    Takes x[..., num_cols] with consecutive columns. Raises ConfigError for too many.
    """
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    _launch(rows, rows, weight, out, out, eps, add=False)
    return out.view(x.shape)


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """s = x + delta -> (s, rms_norm(s)), all [T, num_cols]."""
    total, out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    _launch(x, delta, weight, total, out, eps, add=True)
    return total, out


def _launch(
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    total: Tensor,
    out: Tensor,
    eps: float,
    *,
    add: bool,
) -> None:
    num_rows, num_cols = x.shape
    config = _config(num_cols, add=add)
    strides = (tensor.stride(0) for tensor in (x, delta, total, out))
    grid = (triton.cdiv(num_rows, config.constants["ROWS"]),)
    KERNEL.launch(config, grid, x, delta, weight, total, out, *strides, num_rows, num_cols, eps)
