"""RawTensor: a weight as it lies in its file, and the block formats that its bytes may be in."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

BLOCK_FORMATS: dict[str, tuple[int, int]] = {  # dtype -> values in a block, bytes of a block
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A row-major tensor whose rows are whole numbers of blocks.

    The bytes may be a view of a mapped file: they are read-only.
    """

    dtype: str  # a key of BLOCK_FORMATS, GGUF's spelling
    shape: tuple[int, ...]  # [out, in] or [n]
    data: NDArray[np.uint8]  # flat, num_bytes long

    @property
    def num_values(self) -> int:
        """Product of the shape."""
        return prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (of the last axis)."""
        block_values, block_bytes = BLOCK_FORMATS[self.dtype]
        return self.shape[-1] // block_values * block_bytes


def dequantize(tensor: RawTensor) -> NDArray[np.float32]:
    """The fp32 values, [*shape]; for F32 a read-only view of the mapped file."""
    rows = tensor.data.reshape(-1, tensor.row_bytes)
    with np.errstate(all="ignore"):  # damaged scales may be infinite
        values = quants.dequantize(rows, GGMLQuantizationType[tensor.dtype])
    return values.reshape(tensor.shape)
