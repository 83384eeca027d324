"""The figures of docs/kernels.md are those of the compiler, the formulas and the data sheets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import triton
from gpu_kernels import machine_code

from picert.kernels.devices import A100, H100, ORIN, Device
from picert.kernels.launch import ModelShape, StepShape
from picert.kernels.machine_code import MachineCode
from picert.kernels.registry import KERNELS
from picert.kernels.roofline import estimate, occupancy

PAGE = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
COLUMNS = (A100, H100, ORIN)
BY_NAME = {kernel.name: kernel for kernel in KERNELS}
CODE_ROW = re.compile(r"^\| `(\w+)` `(\w+)` \| (.+) \|$", re.MULTILINE)
LAUNCH_ROW = re.compile(r"^\| `(\w+)`, (.+?) \| ([\d,]+ us.+) \|$", re.MULTILINE)
LLAMA = ModelShape("Llama-3-8B", 4096, 14336, 32, 8, 128, 128256, 32)
STEPS = {
    "prompt of 512": StepShape(1, 512, 512),
    "2,048 tokens at the end of 32,768": StepShape(1, 2048, 32768),
    "1 sequence of 4,096": StepShape(1, 1, 4096),
    "16 of 4,096": StepShape(16, 1, 4096),
    "256 of 4,096": StepShape(256, 1, 4096),
    "2,048 tokens shared by 16": StepShape(16, 1, 4096),  # half of the context is shared
    "2,048 tokens shared by 64": StepShape(64, 1, 4096),
}


def code_of(kernel: str, config: str, device: Device) -> MachineCode:
    """In the first dtype of the kernel."""
    dtype = BY_NAME[kernel].dtypes[0]
    wanted = config, dtype, device.capability
    (code,) = (
        code
        for code in machine_code(kernel)
        if (code.config, code.dtype, code.capability) == wanted
    )
    return code


def in_words(code: MachineCode, device: Device) -> str:
    """Registers, shared memory, warps that fit."""
    size = code.shared_bytes
    shared = f"{(size + 512) // 1024} KB" if size >= 1024 else f"{size} B" if size else "0"
    warps = round(occupancy(code, device) * device.max_warps_per_sm)
    return f"{code.registers}, {shared}, {warps} of {device.max_warps_per_sm}"


def limit_in_words(kernel: str, step: StepShape, device: Device) -> str:
    """The limit of a launch, what binds it, and the share of it that can be reached."""
    work = BY_NAME[kernel].work(LLAMA, step, device.num_sms)
    assert work is not None
    found = estimate(work, code_of(kernel, work.config.name, device), device)
    return f"{found.limit_us:,.0f} us ({found.bound_by}), {found.share:.2f}"


def same_compiler() -> None:
    """Another one gives other registers; what holds with any is in test_machine_code.py."""
    (stated,) = re.findall(r"triton (\d+\.\d+\.\d+)", PAGE)
    if triton.__version__ != stated:
        pytest.skip(f"the page has figures of triton {stated}, this is {triton.__version__}")


@pytest.mark.timeout(420)
def test_registers_shared_memory_and_warps_are_those_of_the_compiler() -> None:
    same_compiler()
    rows = CODE_ROW.findall(PAGE)
    assert {kernel for kernel, _, _ in rows} == set(BY_NAME)
    wanted = {
        (kernel, config): [in_words(code_of(kernel, config, d), d) for d in COLUMNS]
        for kernel, config, _ in rows
    }
    assert {(kernel, config): cells.split(" | ") for kernel, config, cells in rows} == wanted


@pytest.mark.timeout(420)
def test_limits_and_shares_are_those_of_the_roofline() -> None:
    same_compiler()
    rows = LAUNCH_ROW.findall(PAGE)
    assert {step for _, step, _ in rows} == set(STEPS)
    wanted = {
        (kernel, step): [limit_in_words(kernel, STEPS[step], d) for d in COLUMNS]
        for kernel, step, _ in rows
    }
    assert {(kernel, step): cells.split(" | ") for kernel, step, cells in rows} == wanted
