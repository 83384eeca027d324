"""Where kernels run: interpreted on the CPU always, compiled where `pytest -m gpu` finds a card."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(
    scope="session", params=["interpreted", pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Of the tensors that a kernel gets."""
    if request.param == "interpreted":
        return torch.device("cpu")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("kernels are interpreted in this session: run `pytest -m gpu`")
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device is visible: gpu tests need one")
    return torch.device("cuda")


@pytest.fixture
def fresh_memory_is_nan() -> Iterator[None]:
    """torch.empty gives NaN, so that an element which a kernel did not write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
