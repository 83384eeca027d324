"""x @ weight^T with weights of 4 or 8 bits: a skinny kernel for decode, a tiled one for prefill.

Both compute out^T = weight @ x^T, so that the codes, read once and straight into registers, are the
left operand of the tensor cores and the few rows of a decode step their narrow side.

A weight is brought to the dtype of x, as if the model had been dequantised, and rounded there.

Skinny: at most 16 rows. Bound by the bytes of the weights. The inputs are split over programs so
that all multiprocessors are busy; a second pass adds the parts in a fixed order. The split depends
on the weight alone, so a row's bits do not depend on its batch as long as that has at most 16 rows.

Tiled: more rows. Bound by the tensor cores; a weight is unpacked once for up to 128 rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from picert.errors import ConfigError
from picert.kernels.devices import num_sms
from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work
from picert.kernels.quant_weight import OUTPUT_UNIT, QuantWeight

SKINNY_ROWS = 16  # the narrowest product of tensor cores that tl.dot takes


@triton.jit
def _weights(code, scale, minimum, ZERO: tl.constexpr):
    """scale * (code - zero) + minimum in the dtype of scale; code - zero is exact."""
    if scale.dtype == tl.float16:
        # 0x6400 | code is 1024 + code in fp16.
        exact = (code | 0x6400).to(tl.float16, bitcast=True) - (1024 + ZERO)
        weights = exact * scale + minimum
    else:
        # 0x4B000000 | code is 2^23 + code in fp32; in bf16 a weight would be rounded thrice.
        wide = (code.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608 + ZERO)
        weights = (wide * scale.to(tl.float32) + minimum.to(tl.float32)).to(scale.dtype)
    return weights


@triton.jit
def _product(
    x_ptr,  # [num_rows, num_inputs]
    words_ptr,  # [num_chunks, padded, 32]
    scale_ptr,  # [num_groups, padded]
    minimum_ptr,  # [num_groups, padded], read if HAS_MIN
    stride_x_row,
    num_rows,
    num_inputs,
    padded,
    rows,  # [ROWS] of x
    outputs,  # [OUTPUTS]
    begin,  # chunks
    end,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    HAS_MIN: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """[OUTPUTS, ROWS] fp32: sum over the inputs of chunks begin to end of w[n, k] * x[m, k]."""
    inputs = tl.arange(0, 32)
    is_row = rows[None, :] < num_rows
    x_rows = x_ptr + rows[None, :].to(tl.int64) * stride_x_row + inputs[:, None]
    tile = words_ptr + outputs[:, None] * 32 + inputs[None, :]
    stride = padded.to(tl.int64)  # of a group in scale and minimum
    sums = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for chunk in range(begin, end):
        words = tl.load(tile + chunk * stride * 32)
        for i in tl.static_range(16 // BITS):
            group = chunk * (16 // BITS) + i
            is_input = group * 32 + inputs[:, None] < num_inputs
            x = tl.load(x_rows + group * 32, mask=is_row & is_input, other=0.0)
            at = group * stride + outputs
            code = (words >> (i * BITS)) & ((1 << BITS) - 1)
            scale = tl.load(scale_ptr + at).to(x.dtype)[:, None]
            if HAS_MIN:
                minimum = tl.load(minimum_ptr + at).to(x.dtype)[:, None]
            else:
                minimum = tl.zeros_like(scale)
            weights = _weights(code, scale, minimum, ZERO)
            sums = tl.dot(weights, x, sums)
    return sums


@triton.jit(do_not_specialize=("num_rows", "num_chunks", "chunks_of_split"))
def _skinny(
    x_ptr,  # [num_rows, num_inputs]
    words_ptr,  # [num_chunks, padded, 32]
    scale_ptr,  # [num_groups, padded]
    minimum_ptr,  # [num_groups, padded], read if HAS_MIN
    part_ptr,  # [num_splits, num_rows, padded] fp32
    stride_x_row: tl.int64,
    num_rows,
    num_inputs,
    padded,  # outputs
    num_chunks,
    chunks_of_split,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    HAS_MIN: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """part[split] = x @ w^T over the split's inputs, w = scale * (code - zero) + minimum."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    split = tl.program_id(1)
    rows = tl.arange(0, ROWS)
    begin = split * chunks_of_split
    end = tl.minimum(begin + chunks_of_split, num_chunks)
    sums = _product(
        x_ptr, words_ptr, scale_ptr, minimum_ptr, stride_x_row, num_rows, num_inputs, padded,
        rows, outputs, begin, end, BITS, ZERO, HAS_MIN, OUTPUTS, ROWS,
    )  # fmt: skip
    part_rows = (split * num_rows + rows).to(tl.int64)
    out = part_ptr + part_rows[None, :] * padded + outputs[:, None]
    tl.store(out, sums, mask=rows[None, :] < num_rows)


@triton.jit(do_not_specialize=("num_rows", "num_splits", "has_bias"))
def _add_parts(
    part_ptr,  # [num_splits, num_rows, padded] fp32
    unit_ptr,  # [padded] fp32
    bias_ptr,  # [num_outputs], read if has_bias
    out_ptr,  # [num_rows, num_outputs]
    stride_out_row: tl.int64,
    num_rows,
    num_outputs,
    padded,
    num_splits,
    has_bias,
    COLS: tl.constexpr,
):
    """out = unit * (part[0] + part[1] + ...) + bias."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros((COLS,), tl.float32)
    for split in range(num_splits):
        total += tl.load(part_ptr + (split * num_rows + row) * padded + cols, cols < padded)
    mask = cols < num_outputs
    total *= tl.load(unit_ptr + cols, mask=mask)
    total += tl.load(bias_ptr + cols, mask=mask & (has_bias != 0), other=0.0).to(tl.float32)
    out = out_ptr + row * stride_out_row + cols
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("num_rows", "num_chunks", "has_bias"))
def _tiled(
    x_ptr,  # [num_rows, num_inputs]
    words_ptr,  # [num_chunks, padded, 32]
    scale_ptr,  # [num_groups, padded]
    minimum_ptr,  # [num_groups, padded], read if HAS_MIN
    unit_ptr,  # [padded] fp32
    bias_ptr,  # [num_outputs], read if has_bias
    out_ptr,  # [num_rows, num_outputs]
    stride_x_row: tl.int64,
    stride_out_row: tl.int64,
    num_rows,
    num_inputs,
    num_outputs,
    padded,
    num_chunks,
    has_bias,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    HAS_MIN: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """out = x @ w^T + bias, w = unit * (scale * (code - zero) + minimum)."""
    # Neighbouring programs share their weights, which are the larger operand.
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    outputs = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    sums = _product(
        x_ptr, words_ptr, scale_ptr, minimum_ptr, stride_x_row, num_rows, num_inputs, padded,
        rows, outputs, 0, num_chunks, BITS, ZERO, HAS_MIN, OUTPUTS, ROWS,
    )  # fmt: skip
    mask = outputs < num_outputs
    sums *= tl.load(unit_ptr + outputs)[:, None]
    bias = tl.load(bias_ptr + outputs, mask=mask & (has_bias != 0), other=0.0)
    sums += bias.to(tl.float32)[:, None]
    out = tl.trans(sums).to(out_ptr.dtype.element_ty)
    places = out_ptr + rows[:, None] * stride_out_row + outputs[None, :]
    tl.store(places, out, mask=(rows[:, None] < num_rows) & mask[None, :])


_FORMATS = {  # name -> BITS, ZERO, HAS_MIN
    "4": (4, 8, 0),
    "4_min": (4, 0, 1),
    "8": (8, 128, 0),
    "8_min": (8, 0, 1),
}
_OUTPUTS = OUTPUT_UNIT  # of a program: shares the rows of x that it reads among many weights
_TILED_ROWS = (32, 128)
_COLS = 512  # of a program that adds parts
_PROGRAMS_PER_SM = 4  # of a skinny product: what fits with its 37 KB of loads in flight


def _constants(name: str, rows: int) -> dict[str, int]:
    bits, zero, has_min = _FORMATS[name]
    return {"BITS": bits, "ZERO": zero, "HAS_MIN": has_min, "OUTPUTS": _OUTPUTS, "ROWS": rows}


def _splits(padded: int, num_chunks: int, num_sms: int) -> tuple[int, int]:
    """(splits, chunks of each): enough programs to fill the GPU, whatever the number of rows."""
    wanted = triton.cdiv(_PROGRAMS_PER_SM * num_sms, padded // _OUTPUTS)
    chunks = triton.cdiv(num_chunks, min(wanted, num_chunks))
    return triton.cdiv(num_chunks, chunks), chunks


def _weight_bytes(model: ModelShape) -> int:
    """Of a matrix from hidden to intermediate size, 4 bits with minima."""
    return model.hidden * model.intermediate * (16 + 2 + 2) // 32


def _skinny_work(model: ModelShape, step: StepShape, num_sms: int) -> Work | None:
    """The up projection of a decode step: codes, scales and minima, and the parts written."""
    if step.num_tokens > SKINNY_ROWS:
        return None
    config = SKINNY.config("4_min")
    padded = triton.cdiv(model.intermediate, _OUTPUTS) * _OUTPUTS
    splits, _ = _splits(padded, triton.cdiv(model.hidden, 128), num_sms)
    parts = 4 * splits * step.num_tokens * padded
    return Work(
        config,
        num_programs=splits * padded // _OUTPUTS,
        bytes=_weight_bytes(model) + 2 * step.num_tokens * model.hidden + parts,
        tensor_flops=2 * SKINNY_ROWS * model.hidden * model.intermediate,
    )


def _tiled_work(model: ModelShape, step: StepShape, _: int) -> Work | None:
    """The up projection of a step of many tokens."""
    if step.num_tokens <= SKINNY_ROWS:
        return None
    config = _tiled_config("4_min", step.num_tokens)
    values = step.num_tokens * (model.hidden + model.intermediate)
    rows = config.constants["ROWS"]
    return Work(
        config,
        num_programs=triton.cdiv(step.num_tokens, rows) * triton.cdiv(model.intermediate, _OUTPUTS),
        bytes=_weight_bytes(model) + 2 * values,
        tensor_flops=2 * step.num_tokens * model.hidden * model.intermediate,
    )


def _add_parts_work(model: ModelShape, step: StepShape, num_sms: int) -> Work | None:
    """The second pass of the up projection."""
    if step.num_tokens > SKINNY_ROWS:
        return None
    padded = triton.cdiv(model.intermediate, _OUTPUTS) * _OUTPUTS
    splits, _ = _splits(padded, triton.cdiv(model.hidden, 128), num_sms)
    values = step.num_tokens * padded
    return Work(
        ADD_PARTS.configs[0],
        num_programs=step.num_tokens * triton.cdiv(padded, _COLS),
        bytes=4 * splits * values + 2 * values + 4 * padded,
        flops=splits * values,
    )


_INTEGERS = {"num_rows": "i32", **dict.fromkeys(("num_inputs", "padded"), "i32:16")}
_WEIGHT = {
    "x_ptr": "*T:16",
    "words_ptr": "*i16:16",
    **dict.fromkeys(("scale_ptr", "minimum_ptr"), "*fp16:16"),
}
SKINNY = Kernel(
    name="quant_linear_skinny",
    function=_skinny,
    arguments={
        **_WEIGHT,
        "part_ptr": "*fp32:16",
        "stride_x_row": "i64:16",
        **_INTEGERS,
        **dict.fromkeys(("num_chunks", "chunks_of_split"), "i32"),
    },
    configs=tuple(
        Config(name, _constants(name, SKINNY_ROWS), num_warps=4, num_stages=4) for name in _FORMATS
    ),
    work=_skinny_work,
    has_product=True,
)
ADD_PARTS = Kernel(
    name="quant_linear_add_parts",
    function=_add_parts,
    arguments={
        **dict.fromkeys(("part_ptr", "unit_ptr"), "*fp32:16"),
        **dict.fromkeys(("bias_ptr", "out_ptr"), "*T:16"),
        "stride_out_row": "i64:16",
        "num_rows": "i32",
        **dict.fromkeys(("num_outputs", "padded"), "i32:16"),
        **dict.fromkeys(("num_splits", "has_bias"), "i32"),
    },
    configs=(Config(str(_COLS), {"COLS": _COLS}, num_warps=4),),
    work=_add_parts_work,
)
TILED = Kernel(
    name="quant_linear_tiled",
    function=_tiled,
    arguments={
        **_WEIGHT,
        "unit_ptr": "*fp32:16",
        **dict.fromkeys(("bias_ptr", "out_ptr"), "*T:16"),
        **dict.fromkeys(("stride_x_row", "stride_out_row"), "i64:16"),
        **_INTEGERS,
        "num_outputs": "i32:16",
        **dict.fromkeys(("num_chunks", "has_bias"), "i32"),
    },
    configs=tuple(
        Config(
            f"{name}_rows{rows}",
            _constants(name, rows),
            num_warps=rows // 16 if rows > 64 else 4,
            num_stages=3,
            warps_per_sm=8,
        )
        for name in _FORMATS
        for rows in _TILED_ROWS
    ),
    work=_tiled_work,
    has_product=True,
)


def _tiled_config(name: str, num_rows: int) -> Config:
    """Few rows must not pay for 128."""
    return TILED.config(f"{name}_rows{_TILED_ROWS[num_rows > 2 * _TILED_ROWS[0]]}")


def quant_linear(x: Tensor, weight: QuantWeight, bias: Tensor | None = None) -> Tensor:
    """x[T, in] @ weight[out, in]^T + bias[out] -> [T, out] in x's dtype, fp16 or bf16; fp32 sums.

    The inputs of a row are consecutive. Raises ConfigError where x does not fit the weight.
    """
    num_rows, num_inputs = x.shape
    if num_inputs != weight.num_inputs or x.stride(1) != 1:
        raise ConfigError(
            f"x is {list(x.shape)} with strides {x.stride()}, rows of {weight.num_inputs} "
            "consecutive values wanted"
        )
    out = torch.empty((num_rows, weight.num_outputs), dtype=x.dtype, device=x.device)
    product = _skinny_product if num_rows <= SKINNY_ROWS else _tiled_product
    product(x, weight, bias, out)
    return out


def _operands(x: Tensor, weight: QuantWeight) -> tuple[Tensor, ...]:
    minimum = weight.scale if weight.minimum is None else weight.minimum
    return x, weight.words, weight.scale, minimum


def _format(weight: QuantWeight) -> str:
    return f"{weight.bits}" if weight.minimum is None else f"{weight.bits}_min"


def _skinny_product(x: Tensor, weight: QuantWeight, bias: Tensor | None, out: Tensor) -> None:
    num_rows, num_outputs = out.shape
    num_chunks, padded, _ = weight.words.shape
    splits, chunks = _splits(padded, num_chunks, num_sms(x.device))
    parts = torch.empty((splits, num_rows, padded), dtype=torch.float32, device=x.device)
    sizes = (x.stride(0), num_rows, weight.num_inputs, padded, num_chunks, chunks)
    config = SKINNY.config(_format(weight))
    grid = (padded // _OUTPUTS, splits if num_rows else 0)
    SKINNY.launch(config, grid, *_operands(x, weight), parts, *sizes)
    sizes = (out.stride(0), num_rows, num_outputs, padded, splits, int(bias is not None))
    grid = (num_rows, triton.cdiv(num_outputs, _COLS))
    tensors = (parts, weight.unit, out if bias is None else bias, out)
    ADD_PARTS.launch(ADD_PARTS.configs[0], grid, *tensors, *sizes)


def _tiled_product(x: Tensor, weight: QuantWeight, bias: Tensor | None, out: Tensor) -> None:
    num_rows, num_outputs = out.shape
    num_chunks, padded, _ = weight.words.shape
    config = _tiled_config(_format(weight), num_rows)
    grid = (triton.cdiv(num_rows, config.constants["ROWS"]), padded // _OUTPUTS)
    tensors = (*_operands(x, weight), weight.unit, out if bias is None else bias, out)
    strides = (x.stride(0), out.stride(0))
    sizes = (num_rows, weight.num_inputs, num_outputs, padded, num_chunks, int(bias is not None))
    TILED.launch(config, grid, *tensors, *strides, *sizes)
