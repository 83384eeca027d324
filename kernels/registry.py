"""Every Triton kernel there is, once."""

from __future__ import annotations

from picert.kernels import (
    combine_pieces,
    paged_decode,
    paged_prefill,
    quant_linear,
    rms_norm,
    rope,
    sample,
    silu_mul,
    store_kv,
)
from picert.kernels.launch import Kernel
from picert.kernels.launch_table import TABLE

KERNELS: tuple[Kernel, ...] = (
    rms_norm.KERNEL,
    rope.KERNEL,
    silu_mul.KERNEL,
    store_kv.KERNEL,
    paged_prefill.KERNEL,
    paged_decode.SHARED,
    paged_decode.DECODE,
    combine_pieces.KERNEL,
    quant_linear.SKINNY,
    quant_linear.ADD_PARTS,
    quant_linear.TILED,
    sample.KERNEL,
)

TABLE.check_kernels(kernel.name for kernel in KERNELS)
