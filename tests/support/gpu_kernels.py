"""What tests of Triton kernels share: where they run, fresh inputs, and how near is near enough.

Without a card kernels run under Triton's interpreter on the CPU; tests/conftest.py turns it on for
the whole session before anything imports triton, since triton decides at import what `jit` makes.
Compiling needs it off, so the machine-code tests compile in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

pytest.importorskip("triton", reason="triton is installed on Linux only")

from picert.kernels.machine_code import MachineCode

DTYPES = (torch.float16, torch.bfloat16)

# Against float64 on the same inputs: (relative, absolute). Outputs are rounded once to the dtype,
# by at most 2^-11 (fp16) or 2^-8 (bf16) of their size, but the interpreter cuts bf16 off instead of
# rounding it: 2^-7.
TOLERANCE = {torch.float16: (1e-3, 1e-3), torch.bfloat16: (8e-3, 8e-3)}

# Interpreted kernels are slow, so a failing example is shown as it was drawn.
drawn_inputs = settings(
    max_examples=12, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)

_COMPILE_TIMEOUT_S = 400


def noise(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normally distributed, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(device)


def assert_near(
    actual: Tensor, wanted: Tensor, dtype: torch.dtype, *, roundings: float = 1
) -> None:
    """`actual` of that dtype is what float64 gave, within TOLERANCE; an unwritten NaN is not.

    `roundings` is how many to the dtype the kernel makes on the way to a result of size 1.
    """
    assert actual.dtype == dtype
    relative, absolute = (roundings * part for part in TOLERANCE[dtype])
    torch.testing.assert_close(
        actual.to("cpu", torch.float64), wanted.to("cpu"), rtol=relative, atol=absolute
    )


def far_rows(num_rows: int, num_cols: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[num_rows, num_cols] whose last row begins beyond 2^31 elements.

    Only the pages that are written become memory, so this costs address space alone on a CPU.
    """
    stride = 2**31 // (num_rows - 1) + 8
    num_bytes = (stride * (num_rows - 1) + num_cols) * dtype.itemsize
    flat = torch.empty(0, dtype=dtype, device=device)
    flat.set_(torch.UntypedStorage(num_bytes, device=device))
    return flat.as_strided((num_rows, num_cols), (stride, 1))


@cache
def machine_code(kernel_name: str) -> tuple[MachineCode, ...]:
    """Every configuration of a kernel, compiled and disassembled."""
    found = compiling("compile_kernel.py", kernel_name)
    return tuple(MachineCode(**fields) for fields in found)


def launched_code() -> dict[str, list[Any]]:
    """What steps of real models launch, and where that is not what is compiled."""
    found: dict[str, list[Any]] = compiling("launched_code.py")
    return found


def compiling(program: str, *arguments: str) -> Any:
    """What a program of this folder prints as JSON, in a process that may compile."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), *arguments],
        capture_output=True,
        text=True,
        timeout=_COMPILE_TIMEOUT_S,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
