"""The code that a card would run is the code that test_machine_code.py holds.

Triton compiles anew for each type and alignment that an argument turns up with, so a launch may run
other code than was compiled ahead of time; and to compile it, a serving process would stand still.
"""

from __future__ import annotations

from typing import Any

import pytest
from gpu_kernels import launched_code

from picert.kernels.registry import KERNELS


@pytest.fixture(scope="module")
def launched() -> dict[str, list[Any]]:
    """By steps of seven models, on a device without values: none can be read on the way."""
    return launched_code()


def test_launches_of_real_models_run_what_was_compiled_ahead(
    launched: dict[str, list[Any]],
) -> None:
    assert launched["differences"] == []


def test_steps_of_real_models_reach_every_kernel(launched: dict[str, list[Any]]) -> None:
    assert {kernel for kernel, _ in launched["configs"]} == {kernel.name for kernel in KERNELS}
