"""Where kernels run: interpreted on the CPU always, compiled where `pytest -m gpu` finds a card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gpu_card import card


@pytest.fixture(
    scope="session", params=["interpreted", pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Of the tensors that a kernel gets."""
    return torch.device("cpu") if request.param == "interpreted" else card()


@pytest.fixture(scope="session", autouse=True)
def interpreted_products_of_bf16() -> Iterator[None]:
    """The interpreter keeps bf16 as its bits, and tl.dot would multiply those: widen them first."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder = interpreter.InterpreterBuilder
    multiply = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, _widened(interpreter, a), _widened(interpreter, b), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_dot", create_dot)
        yield


def _widened(interpreter: Any, operand: Any) -> Any:
    """bf16 as fp32; anything else as it is."""
    if str(operand.dtype.scalar) != "bf16":
        return operand
    wide = operand.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(wide.view(np.float32), interpreter.tl.float32)


@pytest.fixture
def fresh_memory_is_nan() -> Iterator[None]:
    """torch.empty gives NaN, so that an element which a kernel did not write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
