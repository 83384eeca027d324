"""Reads the header of a GGUF v3 file: metadata and where each tensor lies. Knows no architecture.

The file is hostile until proven otherwise: every length, count and offset is checked against the
bytes that are there before anything is built from it, so that a bad file costs one ModelError and
never time or memory beyond a small multiple of its own header.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod

import numpy as np

from picert.errors import ModelError
from picert.models.raw_tensor import BLOCK_FORMATS

MetadataValue = str | int | float | bool | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]

MAX_HEADER_BYTES = 64 << 20
MAX_STRING_BYTES = 16 << 20
MAX_ARRAY_LENGTH = 1 << 20
MAX_DIMENSIONS = 4
MAX_COUNT = 1 << 17  # of tensors, and of keys

_SCALARS = {  # GGUF value type -> struct and numpy format, both little-endian
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_TENSOR_TYPES = {  # the whole GGML numbering, so that what is not supported is refused by name
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. The range [start, start + num_bytes) is inside the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # row-major
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All that a GGUF file says before its tensors' bytes."""

    metadata: dict[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    num_bytes: int  # of the header, without padding


def read_header(data: mmap.mmap, where: str) -> GgufHeader:
    """Parse and check the header of a mapped file; `where` names it in errors.

    Raises ModelError for anything that is not a whole, well-formed GGUF v3 file of known types.
    """
    cursor = _Cursor(data, where)
    _check_magic(cursor)
    num_tensors, num_keys = cursor.u64(), cursor.u64()
    if max(num_tensors, num_keys) > MAX_COUNT:
        raise cursor.damaged(f"{num_tensors} tensors and {num_keys} keys are not sane")
    cursor.need(num_tensors * 32 + num_keys * 13, "tensors and keys")  # the least they can take
    metadata: dict[str, MetadataValue] = {}
    for _ in range(num_keys):
        key = cursor.string(max_bytes=65_535)
        if key in metadata:
            raise cursor.damaged(f"key {key[:80]!r} comes twice")
        metadata[key] = cursor.value(cursor.u32())
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 65536 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {str(alignment)[:40]}, not a power of two")
    relative = [_tensor_info(cursor) for _ in range(num_tensors)]
    base = -(-cursor.position // alignment) * alignment
    tensors = tuple(_placed(info, base, alignment, cursor) for info in relative)
    _refuse_overlaps(tensors, cursor)
    return GgufHeader(metadata, tensors, cursor.position)


class _Cursor:
    """A position in the file that only moves over bytes that are there."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self._data = data
        self.size = len(data)
        self.where = where
        self.position = 0

    def damaged(self, what: str) -> ModelError:
        return ModelError(
            f"{self.where} is not a whole GGUF file, {what} (byte {self.position} of {self.size}): "
            "fetch it again"
        )

    def need(self, count: int, what: str) -> None:
        if self.position + count > min(self.size, MAX_HEADER_BYTES):
            raise self.damaged(f"{count} bytes of {what} are wanted")

    def take(self, count: int, what: str) -> bytes:
        self.need(count, what)
        start = self.position
        self.position += count
        return self._data[start : self.position]

    def u32(self) -> int:
        return int.from_bytes(self.take(4, "number"), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8, "number"), "little")

    def string(self, max_bytes: int = MAX_STRING_BYTES) -> str:
        length = self.u64()
        if length > max_bytes:
            raise self.damaged(f"a string has {length} bytes, at most {max_bytes} are sane")
        raw = self.take(length, "string")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a string is not UTF-8") from None

    def value(self, kind: int) -> MetadataValue:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self._scalars(kind, 1)[0]

    def _array(self) -> MetadataValue:
        kind, count = self.u32(), self.u64()
        if count > MAX_ARRAY_LENGTH:
            raise self.damaged(f"an array has {count} items, at most {MAX_ARRAY_LENGTH} are sane")
        if kind == _STRING:
            return self._strings(count)
        return self._scalars(kind, count)

    def _scalars(self, kind: int, count: int) -> tuple[int, ...] | tuple[float, ...]:
        code = _SCALARS.get(kind)
        if code is None:
            raise self.damaged(f"value type {kind} is unknown here")
        dtype = np.dtype(code)
        raw = self.take(count * dtype.itemsize, "values")
        if code == "?" and raw.translate(None, b"\x00\x01"):
            raise self.damaged("a bool is neither 0 nor 1")
        return tuple(np.frombuffer(raw, dtype).tolist())

    def _strings(self, count: int) -> tuple[str, ...]:
        """A flat loop over the bytes: a vocabulary has 150,000 strings and must load at once."""
        self.need(count * 8, "strings")
        data, limit, at = self._data, min(self.size, MAX_HEADER_BYTES), self.position
        length_at = struct.Struct("<Q").unpack_from
        raw: list[bytes] = []
        for _ in range(count):
            begin = at + 8
            if begin > limit:
                raise self.damaged("an array of strings is cut short")
            at = begin + length_at(data, at)[0]
            if at > limit:
                raise self.damaged("a string in an array is cut short")
            raw.append(data[begin:at])
        self.position = at
        try:
            return tuple([item.decode("utf-8") for item in raw])
        except UnicodeDecodeError:
            raise self.damaged("a string is not UTF-8") from None


def _check_magic(cursor: _Cursor) -> None:
    magic = cursor.take(4, "magic")
    if magic != b"GGUF":
        raise cursor.damaged(f"it begins with {magic!r} instead of b'GGUF'")
    version = cursor.u32()
    if version != 3:
        given = "big-endian" if version == 3 << 24 else f"version {version}"
        raise ModelError(
            f"{cursor.where} is GGUF {given}, wanted version 3 little-endian: convert it again"
        )


def _tensor_info(cursor: _Cursor) -> TensorInfo:
    """One entry of the table; `start` is still relative to the data section."""
    name = cursor.string(max_bytes=65_535)
    num_dimensions = cursor.u32()
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise cursor.damaged(f"tensor {name[:80]!r} has {num_dimensions} dimensions")
    shape = tuple(cursor.u64() for _ in range(num_dimensions))[::-1]
    kind, offset = cursor.u32(), cursor.u64()
    dtype = _TENSOR_TYPES.get(kind, f"number {kind}")
    if dtype not in BLOCK_FORMATS:
        raise ModelError(
            f"{cursor.where}: tensor {name[:80]!r} is of type {dtype}, supported are "
            f"{', '.join(BLOCK_FORMATS)}: take a file quantised to one of these"
        )
    block_values, block_bytes = BLOCK_FORMATS[dtype]
    if shape[-1] % block_values or not all(shape):
        raise cursor.damaged(f"tensor {name[:80]!r} has shape {shape}, not whole {dtype} blocks")
    return TensorInfo(name, dtype, shape, offset, prod(shape) // block_values * block_bytes)


def _placed(info: TensorInfo, base: int, alignment: int, cursor: _Cursor) -> TensorInfo:
    start = base + info.start
    if info.start % alignment or start + info.num_bytes > cursor.size:
        raise cursor.damaged(
            f"tensor {info.name[:80]!r} of {info.num_bytes} bytes at byte {start} is not in it"
        )
    return TensorInfo(info.name, info.dtype, info.shape, start, info.num_bytes)


def _refuse_overlaps(tensors: tuple[TensorInfo, ...], cursor: _Cursor) -> None:
    if len({t.name for t in tensors}) != len(tensors):
        raise cursor.damaged("a tensor name comes twice")
    end = 0
    for info in sorted(tensors, key=lambda t: t.start):
        if info.start < end:
            raise cursor.damaged(f"tensor {info.name[:80]!r} overlaps another")
        end = info.start + info.num_bytes
