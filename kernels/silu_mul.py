"""Gated activations of the feed-forward part: silu_mul and gelu_mul."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work


@triton.jit
def _gated(
    gate_ptr,  # [num_rows, num_cols]
    up_ptr,  # [num_rows, num_cols]
    out_ptr,  # [num_rows, num_cols]
    stride_gate_row: tl.int64,
    stride_up_row: tl.int64,
    stride_out_row: tl.int64,
    num_cols,
    GELU: tl.constexpr,
    COLS: tl.constexpr,
):
    """out = f(gate) * up; f(g) = g * sigmoid(g), or if GELU g / 2 * (1 + tanh(u)) where
    u = sqrt(2 / pi) * (g + 0.044715 * g^3).
    """
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    mask = cols < num_cols
    gate = tl.load(gate_ptr + row * stride_gate_row + cols, mask=mask, other=0.0)
    up = tl.load(up_ptr + row * stride_up_row + cols, mask=mask, other=0.0)
    wide = gate.to(tl.float32)
    if GELU:
        # (1 + tanh(u)) / 2 = sigmoid(2 * u), so one exponential serves both.
        angle = 1.5957691216057308 * (wide + 0.044715 * wide * wide * wide)
    else:
        angle = wide
    out = wide * tl.sigmoid(angle) * up.to(tl.float32)
    tl.store(out_ptr + row * stride_out_row + cols, out.to(gate.dtype), mask=mask)


_COLS = 1024  # 16 bytes of each operand for each thread of 4 warps


def _work(model: ModelShape, step: StepShape, _: int) -> Work:
    """Gate and up read, the product written."""
    values = step.num_tokens * model.intermediate
    return Work(
        KERNEL.config("silu"),
        num_programs=step.num_tokens * triton.cdiv(model.intermediate, _COLS),
        bytes=2 * 3 * values,
        flops=6 * values,
    )


KERNEL = Kernel(
    name="silu_mul",
    function=_gated,
    arguments={
        **dict.fromkeys(("gate_ptr", "up_ptr", "out_ptr"), "*T:16"),
        **dict.fromkeys(("stride_gate_row", "stride_up_row", "stride_out_row"), "i64:16"),
        "num_cols": "i32:16",
    },
    configs=tuple(
        Config(name, {"GELU": is_gelu, "COLS": _COLS}, num_warps=4, warps_per_sm=32)
        for is_gelu, name in enumerate(("silu", "gelu"))
    ),
    work=_work,
)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, [T, F]; rows of any stride."""
    return _launch("silu", gate, up)


def gelu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """gelu_tanh(gate) * up, [T, F]; rows of any stride."""
    return _launch("gelu", gate, up)


def _launch(name: str, gate: Tensor, up: Tensor) -> Tensor:
    num_rows, num_cols = gate.shape
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    strides = (tensor.stride(0) for tensor in (gate, up, out))
    grid = (num_rows, triton.cdiv(num_cols, _COLS))
    KERNEL.launch(KERNEL.config(name), grid, gate, up, out, *strides, num_cols)
    return out
