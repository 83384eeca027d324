"""Data sheets of the GPUs that the kernels are made for, and what fits on them at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_WARP_THREADS = 32
_REGISTER_UNIT = 256  # registers are given to a warp in multiples of this
_SHARED_UNIT = 128  # bytes, likewise of shared memory to a program
_SYSTEM_SHARED = 1024  # bytes that the system takes of each program's


@dataclass(frozen=True, slots=True)
class Device:
    """What the maker's data sheet and the table of compute capabilities say."""

    name: str
    capability: int  # 90 for sm_90
    num_sms: int
    max_warps_per_sm: int
    max_programs_per_sm: int
    registers_per_sm: int
    shared_per_sm: int  # bytes
    shared_per_program: int  # bytes, at most
    memory_bytes_per_s: float
    tensor_flops: float  # dense fp16 and bf16 with fp32 sums, per second
    flops: float  # fp32 outside tensor cores, per second
    exponentials: float  # and other special functions: 16 a clock and multiprocessor


A100 = Device(  # SXM, 80 GB
    name="a100",
    capability=80,
    num_sms=108,
    max_warps_per_sm=64,
    max_programs_per_sm=32,
    registers_per_sm=65536,
    shared_per_sm=164 * 1024,
    shared_per_program=163 * 1024,
    memory_bytes_per_s=2.039e12,
    tensor_flops=312e12,
    flops=19.5e12,
    exponentials=2.44e12,
)
H100 = Device(  # SXM, 80 GB
    name="h100",
    capability=90,
    num_sms=132,
    max_warps_per_sm=64,
    max_programs_per_sm=32,
    registers_per_sm=65536,
    shared_per_sm=228 * 1024,
    shared_per_program=227 * 1024,
    memory_bytes_per_s=3.35e12,
    tensor_flops=989e12,
    flops=67e12,
    exponentials=3.9e12,
)
ORIN = Device(  # Jetson AGX Orin, 64 GB, 60 W: 85 int8 TOPS dense in its GPU, half of that in fp16
    name="orin",
    capability=87,
    num_sms=16,
    max_warps_per_sm=48,
    max_programs_per_sm=16,
    registers_per_sm=65536,
    shared_per_sm=164 * 1024,
    shared_per_program=163 * 1024,
    memory_bytes_per_s=204.8e9,
    tensor_flops=42.5e12,
    flops=5.3e12,
    exponentials=0.33e12,
)
DEVICES = {device.name: device for device in (A100, H100, ORIN)}


def num_sms(device: torch.device) -> int:
    """Multiprocessors of the GPU at hand; 1 where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def programs_per_sm(device: Device, *, num_warps: int, registers: int, shared_bytes: int) -> int:
    """Programs of `num_warps` that one multiprocessor holds at once; 0 if not even one fits."""
    of_a_warp = _rounded_up(registers * _WARP_THREADS, _REGISTER_UNIT)
    of_a_program = _rounded_up(shared_bytes + _SYSTEM_SHARED, _SHARED_UNIT)
    if shared_bytes > device.shared_per_program:
        return 0
    return min(
        device.max_programs_per_sm,
        device.max_warps_per_sm // num_warps,
        device.registers_per_sm // of_a_warp // num_warps,
        device.shared_per_sm // of_a_program,
    )


def _rounded_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
