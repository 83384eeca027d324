"""NativeOps: the C++ kernels one by one over numpy arrays, with the meanings that `Ops` gives them.

For tests, benchmarks and the curious: a step of the native decoder calls the same kernels inside
the extension, without coming back to Python. Arrays are C-contiguous, float32 or int32; anything
else raises ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from picert import _C

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A weight as it lies in its file."""

    dtype: str  # as GGUF spells it
    shape: tuple[int, ...]  # [out, in]
    data: NDArray[np.uint8]  # flat


@dataclass(frozen=True, slots=True)
class PagedContext:
    """Where queries stand in their sequences, as in AttentionMeta: int32 arrays."""

    query_start: IntArray  # [S + 1]
    context_lens: IntArray  # [S]
    block_tables: IntArray  # [S, max_blocks]


def supported_isas() -> list[str]:
    """Instruction sets that this CPU can run, the best last."""
    return _C.supported_isas()


def dequantize(weight: QuantizedMatrix) -> FloatArray:
    """The fp32 values, [*shape]."""
    return _C.dequantize(weight.dtype, weight.shape, weight.data)


@dataclass(frozen=True, slots=True)
class NativeOps:
    """The kernels of one instruction set ("" for the best) on a number of threads."""

    isa: str = ""
    num_threads: int = 1

    def linear(
        self, x: FloatArray, weight: QuantizedMatrix, bias: FloatArray | None = None
    ) -> FloatArray:
        """x[T, in] @ weight[out, in]^T + bias[out]; x is quantised to 8 bits if the weight is."""
        return _C.linear(
            x, weight.dtype, weight.shape, weight.data, bias, self.num_threads, self.isa
        )

    def rms_norm(self, x: FloatArray, weight: FloatArray, eps: float) -> FloatArray:
        """x[T, E] / sqrt(mean(x^2) + eps) * weight[E]."""
        return _C.rms_norm(x, weight, eps, self.isa)

    def rope(self, x: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
        """x[T, H, D] with the pairs (d, d + D/2) rotated by cos, sin [T, D/2]."""
        return _C.rope(x, cos, sin, self.isa)

    def silu_mul(self, gate: FloatArray, up: FloatArray) -> FloatArray:
        """silu(gate) * up, [T, F]."""
        return _C.silu_mul(gate, up, self.isa)

    def gelu_mul(self, gate: FloatArray, up: FloatArray) -> FloatArray:
        """gelu_tanh(gate) * up, [T, F]."""
        return _C.gelu_tanh_mul(gate, up, self.isa)

    def soft_cap(self, x: FloatArray, cap: float) -> FloatArray:
        """cap * tanh(x / cap), [T, N]."""
        return _C.soft_cap(x, cap, self.isa)

    def attention(
        self,
        q: FloatArray,
        k_cache: FloatArray,
        v_cache: FloatArray,
        context: PagedContext,
        *,
        scale: float,
        sliding_window: int | None = None,
        soft_cap: float | None = None,
        kv_format: Literal["fp16", "int8"] = "fp16",
    ) -> FloatArray:
        """Causal attention of q[T, H, D] over caches [N, B, G, D], rounded to `kv_format` first."""
        return _C.attention(
            q,
            k_cache,
            v_cache,
            context.query_start,
            context.context_lens,
            context.block_tables,
            scale,
            sliding_window or 0,
            soft_cap or 0.0,
            self.num_threads,
            self.isa,
            kv_format,
        )
