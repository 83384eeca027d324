"""silu_mul and gelu_mul against torch_ops in float64."""

from __future__ import annotations

import pytest
import torch
from gpu_kernels import DTYPES, assert_near, drawn_inputs, far_rows, noise
from hypothesis import given
from hypothesis import strategies as st

from picert.kernels.silu_mul import gelu_mul, silu_mul
from picert.kernels.torch_ops import TorchOps

ORACLE = TorchOps()
pytestmark = [
    pytest.mark.usefixtures("fresh_memory_is_nan"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),  # to infinity, as on a GPU
]


@drawn_inputs
@given(
    num_rows=st.integers(0, 5),
    num_cols=st.integers(1, 3000),
    dtype=st.sampled_from(DTYPES),
    is_silu=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_gated_activation_is_that_of_torch_ops(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    num_rows: int,
    num_cols: int,
    dtype: torch.dtype,
    is_silu: bool,
    seed: int,
) -> None:
    both = noise(num_rows, 2 * num_cols, seed=seed, dtype=dtype, device=device) * 3
    gate, up = both.split(num_cols, dim=1)  # rows are not contiguous
    ours, oracle = (silu_mul, ORACLE.silu_mul) if is_silu else (gelu_mul, ORACLE.gelu_mul)
    assert_near(ours(gate, up), oracle(gate.double(), up.double()), dtype)


@pytest.mark.parametrize("size", [-200.0, 200.0])
def test_large_gates_neither_overflow_nor_vanish(device: torch.device, size: float) -> None:
    gate = torch.full((1, 64), size, dtype=torch.bfloat16, device=device)
    up = torch.ones_like(gate)
    for ours, oracle in ((silu_mul, ORACLE.silu_mul), (gelu_mul, ORACLE.gelu_mul)):
        assert_near(ours(gate, up), oracle(gate.double(), up.double()), torch.bfloat16)


def test_rows_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    gate = far_rows(2, 100, device, torch.float16)
    gate.copy_(noise(2, 100, seed=0, dtype=torch.float16, device=device))
    up = noise(2, 100, seed=1, dtype=torch.float16, device=device)
    assert_near(silu_mul(gate, up), ORACLE.silu_mul(gate.double(), up.double()), torch.float16)
