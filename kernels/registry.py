"""Every Triton kernel there is, once."""

from __future__ import annotations

from picert.kernels import rms_norm, silu_mul
from picert.kernels.launch import Kernel

KERNELS: tuple[Kernel, ...] = (rms_norm.KERNEL, silu_mul.KERNEL)
