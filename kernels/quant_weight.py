"""QuantWeight: a matrix of 4- or 8-bit codes as the GPU kernels of quant_linear read it.

The weight of output n and input k is unit[n] * (scale[g, n] * (code - zero) + minimum[g, n]), where
g = k / 32; codes are unsigned. With minima zero is 0, without it is the middle of the codes: 8 or
128. Outputs are padded to 128 and inputs to whole chunks, with scale 0.

A chunk is 32 words of 16 bits for each output: word j holds, from its lowest bits on, code j of
each of the chunk's groups (4 groups of 4 bits, or 2 of 8 bits). So the tile of a program is one run
of memory, goes to the tensor cores' registers in the layout of 16-bit operands, and one mask and
shift there gives the operand of a whole group, without a value changing its thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from picert.errors import ConfigError

GROUP = 32  # inputs that share a scale
WORDS = 32  # of an output in a chunk
OUTPUT_UNIT = 128  # padded to, so that no kernel masks its weights
_WORD_BITS = 16
_LARGEST_SCALE = 64.0  # in units: times a code of 8 bits it is still well inside fp16


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantised matrix before it is packed: w = scale * (code - zero) + minimum."""

    bits: Literal[4, 8]
    zero: int
    codes: Tensor  # [out, in] uint8, below 2^bits
    scale: Tensor  # [out, in / 32] fp32
    minimum: Tensor | None  # [out, in / 32] fp32

    def dequantize(self) -> Tensor:
        """[out, in] fp64."""
        scale = self.scale.double().repeat_interleave(GROUP, dim=1)
        values = scale * (self.codes.double() - self.zero)
        if self.minimum is not None:
            values += self.minimum.double().repeat_interleave(GROUP, dim=1)
        return values


@dataclass(frozen=True, slots=True)
class QuantWeight:
    """C chunks, N padded outputs, G groups."""

    bits: Literal[4, 8]
    num_outputs: int
    num_inputs: int
    words: Tensor  # [C, N, 32] int16
    scale: Tensor  # [G, N] fp16
    minimum: Tensor | None  # [G, N] fp16
    unit: Tensor  # [N] fp32, powers of two

    @property
    def num_bytes(self) -> int:
        """Of device memory."""
        tensors = (self.words, self.scale, self.minimum, self.unit)
        return sum(t.numel() * t.itemsize for t in tensors if t is not None)


def groups_of_chunk(bits: int) -> int:
    """Groups of 32 inputs whose codes share words."""
    return _WORD_BITS // bits


def pack(source: Codes) -> QuantWeight:
    """Bring codes into the kernels' layout, on their device. Raises ConfigError."""
    num_outputs, num_inputs = source.codes.shape
    if source.zero and (source.minimum is not None or source.zero > _zero(source)):
        raise ConfigError(
            f"codes of {source.bits} bits with zero {source.zero} cannot be packed: at most "
            f"{_zero(source)} wanted, and 0 beside minima"
        )
    if num_inputs % GROUP:
        raise ConfigError(
            f"a matrix of {num_inputs} inputs cannot be packed, a multiple of {GROUP} wanted"
        )
    groups = groups_of_chunk(source.bits)
    pad_inputs = -num_inputs % (GROUP * groups)
    pad_outputs = -num_outputs % OUTPUT_UNIT
    centred = source.codes.to(torch.int32) + (_zero(source) - source.zero)
    codes = F.pad(centred, (0, pad_inputs, 0, pad_outputs))
    chunks = codes.view(len(codes), -1, groups, WORDS).transpose(0, 1)  # [C, N, groups, 32]
    shifts = source.bits * torch.arange(groups, device=codes.device)
    words = (chunks << shifts[:, None]).sum(dim=2)
    unit = _unit(source)
    parts = [
        None
        if part is None
        else F.pad(part / unit[:, None], (0, pad_inputs // GROUP, 0, pad_outputs)).t()
        for part in (source.scale, source.minimum)
    ]
    scale, minimum = (None if part is None else part.contiguous().half() for part in parts)
    assert scale is not None
    return QuantWeight(
        bits=source.bits,
        num_outputs=num_outputs,
        num_inputs=num_inputs,
        words=words.to(torch.int16).contiguous(),
        scale=scale,
        minimum=minimum,
        unit=F.pad(unit, (0, pad_outputs), value=1.0),
    )


def unpack(weight: QuantWeight, outputs: Tensor | None = None) -> Tensor:
    """The values of these outputs, all of them if None: [len(outputs), in] fp32."""
    chosen = slice(weight.num_outputs) if outputs is None else outputs
    shifts = weight.bits * torch.arange(groups_of_chunk(weight.bits), device=weight.words.device)
    words = weight.words[:, chosen, None].int()  # [C, n, 1, 32]
    codes = (words >> shifts[:, None]) & ((1 << weight.bits) - 1)
    groups = codes.transpose(0, 1).flatten(1, 2)  # [n, G, 32]
    zero = 0 if weight.minimum is not None else 1 << (weight.bits - 1)
    values = (groups - zero).float() * weight.scale[:, chosen].t()[..., None]
    if weight.minimum is not None:
        values += weight.minimum[:, chosen].t()[..., None]
    values *= weight.unit[chosen, None, None]
    return values.flatten(1)[:, : weight.num_inputs]


def quantize(weight: Tensor, bits: Literal[4, 8]) -> Codes:
    """Round weight[out, in] to codes: 4 bits from each group's minimum up, 8 bits around 128."""
    groups = weight.float().view(len(weight), -1, GROUP)
    if bits == 8:
        scale = groups.abs().amax(dim=2) / 127
        codes, zero, minimum = groups / _not_zero(scale)[..., None] + 128, 128, None
    else:
        minimum = groups.amin(dim=2)
        scale = (groups.amax(dim=2) - minimum) / 15
        codes, zero = (groups - minimum[..., None]) / _not_zero(scale)[..., None], 0
    return Codes(bits, zero, codes.round().to(torch.uint8).flatten(1), scale, minimum)


def _zero(source: Codes) -> int:
    """The code that means zero once packed."""
    return 0 if source.minimum is not None else 1 << (source.bits - 1)


def _not_zero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _unit(source: Codes) -> Tensor:
    """[out] the power of two that brings an output's largest scale or minimum just below 64."""
    largest = source.scale.abs().amax(dim=1)
    if source.minimum is not None:
        largest = torch.maximum(largest, source.minimum.abs().amax(dim=1))
    exponent = torch.frexp(_not_zero(largest) / _LARGEST_SCALE).exponent
    return torch.ldexp(torch.ones_like(largest), exponent)
