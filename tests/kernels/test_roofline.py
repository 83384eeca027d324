"""Estimates of launches from made-up code on the devices of the data sheets."""

from __future__ import annotations

from dataclasses import replace

import gpu_kernels  # noqa: F401 - skips where triton is not installed
import pytest

from picert.kernels.devices import A100, H100, ORIN, Device, programs_per_sm
from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work
from picert.kernels.machine_code import MachineCode
from picert.kernels.registry import KERNELS
from picert.kernels.roofline import estimate

CONFIG = Config("any", {}, num_warps=4, warps_per_sm=16)
CODE = MachineCode("any", "any", "fp16", 80, 4, 32, 0, 0, {})
LLAMA = ModelShape("Llama-3-8B", 4096, 14336, 32, 8, 128, 128256, 32)


def test_limit_is_that_of_the_slowest_unit() -> None:
    by_memory = estimate(Work(CONFIG, 10_000, bytes=2_039_000_000, flops=1000), CODE, A100)
    assert (by_memory.limit_us, by_memory.bound_by) == (pytest.approx(1000), "memory")
    by_product = estimate(Work(CONFIG, 10_000, bytes=1, tensor_flops=312 * 10**9), CODE, A100)
    assert (by_product.limit_us, by_product.bound_by) == (pytest.approx(1000), "tensor cores")


def test_exponentials_have_a_unit_of_their_own() -> None:
    found = estimate(Work(CONFIG, 10_000, bytes=1, exponentials=244 * 10**7), CODE, A100)
    assert (found.limit_us, found.bound_by) == (pytest.approx(1000), "exponentials")


def test_products_of_a_lonely_program_wait_for_its_exponentials() -> None:
    work = Work(CONFIG, 108, bytes=1, tensor_flops=312 * 10**9, exponentials=244 * 10**7)
    lonely = estimate(work, replace(CODE, shared_bytes=100 * 1024), A100)
    assert lonely.share == pytest.approx(0.5)
    assert lonely.reason.startswith("one program a multiprocessor")
    assert estimate(work, replace(CODE, shared_bytes=70 * 1024), A100).reason == (
        "4 warps a multiprocessor"
    )


@pytest.mark.parametrize(
    ("num_programs", "share", "reason"),
    [
        (54, 0.5, "54 programs for 108 multiprocessors"),
        (216, 0.5, "8 warps a multiprocessor"),
        (16 * 108, 1.0, "full"),
        (16 * 108 + 1, 0.5, "the last of 2 waves is not full"),
    ],
)
def test_share_is_what_the_grid_fills(num_programs: int, share: float, reason: str) -> None:
    found = estimate(Work(CONFIG, num_programs, bytes=1), CODE, A100)
    assert found.share == pytest.approx(share, abs=1e-3)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("device", "num_warps", "registers", "shared_bytes", "wanted"),
    [
        (A100, 4, 32, 0, 16),  # warps: 64 / 4
        (ORIN, 4, 32, 0, 12),  # warps: 48 / 4
        (ORIN, 1, 32, 0, 16),  # programs
        (A100, 8, 128, 0, 2),  # registers: 65536 / (128 * 256)
        (A100, 4, 32, 81 * 1024, 2),  # shared memory, with the 1 KB that the system takes
        (A100, 4, 32, 82 * 1024, 1),
        (H100, 4, 32, 227 * 1024, 1),
        (A100, 4, 32, 164 * 1024, 0),
    ],
)
def test_programs_that_fit_on_a_multiprocessor(
    device: Device, num_warps: int, registers: int, shared_bytes: int, wanted: int
) -> None:

    fits = programs_per_sm(
        device, num_warps=num_warps, registers=registers, shared_bytes=shared_bytes
    )
    assert fits == wanted


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_kernel_has_a_part_in_some_step(kernel: Kernel) -> None:

    steps = (StepShape(1, 1, 128), StepShape(16, 1, 1024), StepShape(1, 512, 512))
    works = [work for step in steps if (work := kernel.work(LLAMA, step, A100.num_sms)) is not None]
    assert works
    for work in works:
        assert work.config in kernel.configs
        assert work.bytes > 0
        assert work.num_programs > 0


def test_long_contexts_are_cut_for_as_many_programs_as_a_device_wants() -> None:
    (decode,) = (kernel for kernel in KERNELS if kernel.name == "paged_decode")
    for device, num_programs in ((ORIN, 8 * 16), (H100, 8 * 64)):  # heads and pieces of each
        work = decode.work(LLAMA, StepShape(1, 1, 32768), device.num_sms)
        assert work is not None
        assert work.num_programs == num_programs
