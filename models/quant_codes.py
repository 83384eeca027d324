"""Raw weights of a file to the packed codes of the GPU kernels, without loss where there is a way.

Blocks of 32 with a scale each go over code by code; K types have their two-level scales multiplied
out, which fp16 then rounds. Q6_K, whose groups are of 16, is dequantised and quantised anew to 8
bits, as are floating-point matrices to what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from picert.errors import ModelError
from picert.kernels.quant_weight import GROUP, Codes, QuantWeight, pack, quantize
from picert.models.raw_tensor import BLOCK_FORMATS, RawTensor, dequantize

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Quantization = Literal["auto", "none", "q4", "q8"]
_FLOATS = ("F32", "F16", "BF16")


def packed(
    name: str, tensor: RawTensor, quantization: Quantization, device: torch.device
) -> QuantWeight | None:
    """The matrix as packed codes on `device`; None for what stays a plain tensor.

    Matrices that are quantised in their file keep their codes, unless `quantization` is "none";
    floating-point ones are packed only for "q4" and "q8". Raises ModelError for rows that are no
    whole groups.
    """
    is_float = tensor.dtype in _FLOATS
    if quantization == "none" or len(tensor.shape) != 2 or (is_float and quantization == "auto"):
        return None
    if tensor.shape[1] % GROUP:
        raise ModelError(
            f"{name} has rows of {tensor.shape[1]} values, packing wants a multiple of {GROUP}: "
            "use quantization none"
        )
    codes = codes_of(tensor, device)
    if codes is None:
        values = torch.tensor(dequantize(tensor), device=device)
        codes = quantize(values, 4 if is_float and quantization == "q4" else 8)
    return pack(codes)


def codes_of(tensor: RawTensor, device: torch.device) -> Codes | None:
    """The codes that the file holds, None where its type has none in groups of 32."""
    if tensor.dtype not in _READERS:
        return None
    block_bytes = BLOCK_FORMATS[tensor.dtype][1]
    with np.errstate(all="ignore"):  # damaged scales may be infinite
        read = _READERS[tensor.dtype](tensor.data.reshape(-1, block_bytes))

    def of_rows(part: NDArray[np.generic]) -> Tensor:
        return torch.tensor(part.reshape(tensor.shape[0], -1), device=device)

    return Codes(
        bits=read.bits,
        zero=read.zero,
        codes=of_rows(read.codes),
        scale=of_rows(read.scale),
        minimum=None if read.minimum is None else of_rows(read.minimum),
    )


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What n blocks hold: w = scale * (code - zero) + minimum."""

    bits: Literal[4, 8]
    zero: int
    codes: Bytes  # [n, values of a block]
    scale: Floats  # [n, groups of a block]
    minimum: Floats | None = None


def _q4_0(blocks: Bytes) -> _Blocks:
    return _Blocks(4, 8, _nibbles(blocks[:, 2:18]), _halves(blocks, 0))


def _q4_1(blocks: Bytes) -> _Blocks:
    return _Blocks(4, 0, _nibbles(blocks[:, 4:20]), _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(blocks: Bytes) -> _Blocks:
    codes = _nibbles(blocks[:, 6:22]) | _fifth_bits(blocks[:, 2:6])
    return _Blocks(8, 16, codes, _halves(blocks, 0))


def _q5_1(blocks: Bytes) -> _Blocks:
    codes = _nibbles(blocks[:, 8:24]) | _fifth_bits(blocks[:, 4:8])
    return _Blocks(8, 0, codes, _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(blocks: Bytes) -> _Blocks:
    return _Blocks(8, 128, blocks[:, 2:34] ^ np.uint8(0x80), _halves(blocks, 0))  # int8 + 128


def _q4_k(blocks: Bytes) -> _Blocks:
    return _Blocks(4, 0, _k_nibbles(blocks[:, 16:144]), *_k_scales(blocks))


def _q5_k(blocks: Bytes) -> _Blocks:
    # Bit g of byte j is the fifth of value j in group g.
    high = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)
    fifth = (high << np.uint8(4)).reshape(len(blocks), -1)
    return _Blocks(8, 0, _k_nibbles(blocks[:, 48:176]) | fifth, *_k_scales(blocks))


def _nibbles(words: Bytes) -> Bytes:
    """[n, 16] -> [n, 32]: the low halves, then the high ones."""
    return np.concatenate((words & 15, words >> 4), axis=1)


def _fifth_bits(words: Bytes) -> Bytes:
    """[n, 4] -> [n, 32] of 0 or 16."""
    bits: Bytes = np.unpackbits(words, axis=1, bitorder="little") << np.uint8(4)
    return bits


def _halves(blocks: Bytes, at: int) -> Floats:
    """[n, 1] the fp16 number at byte `at` of each block."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _k_nibbles(words: Bytes) -> Bytes:
    """[n, 128] -> [n, 256]: of each 32 bytes the low halves are a group, the high ones the next."""
    parts = words.reshape(-1, 4, 1, 32)
    return np.concatenate((parts & 15, parts >> 4), axis=2).reshape(len(words), -1)


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """[n, 8] scales and minima: 6 bits each under a factor of the block."""
    low, mid, high = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scale = np.concatenate((low & 63, (high & 15) | (low >> 6 << 4)), axis=1)
    minimum = np.concatenate((mid & 63, (high >> 4) | (mid >> 6 << 4)), axis=1)
    return _halves(blocks, 0) * scale, -_halves(blocks, 2) * minimum


_READERS: Mapping[str, Callable[[Bytes], _Blocks]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
}
