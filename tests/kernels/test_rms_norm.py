"""rms_norm and add_rms_norm against torch_ops in float64."""

from __future__ import annotations

import pytest
import torch
from gpu_kernels import DTYPES, assert_near, drawn_inputs, far_rows, noise
from hypothesis import given
from hypothesis import strategies as st

from picert.errors import ConfigError
from picert.kernels.rms_norm import add_rms_norm, rms_norm
from picert.kernels.torch_ops import TorchOps

ORACLE = TorchOps()
EPS = 1e-5
pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")
shapes = given(
    num_rows=st.integers(1, 9),
    num_cols=st.integers(1, 700),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)


@drawn_inputs
@shapes
def test_norm_is_that_of_torch_ops(
    device: torch.device, num_rows: int, num_cols: int, dtype: torch.dtype, seed: int
) -> None:
    x = noise(num_rows, num_cols, seed=seed, dtype=dtype, device=device)
    weight = noise(num_cols, seed=seed + 1, dtype=dtype, device=device)
    wanted = ORACLE.rms_norm(x.double(), weight.double(), EPS)
    assert_near(rms_norm(x, weight, EPS), wanted, dtype)


@drawn_inputs
@shapes
def test_fused_norm_adds_first_and_gives_the_sum_too(
    device: torch.device, num_rows: int, num_cols: int, dtype: torch.dtype, seed: int
) -> None:
    x, delta = (
        noise(num_rows, num_cols, seed=seed + i, dtype=dtype, device=device) for i in range(2)
    )
    weight = noise(num_cols, seed=seed + 2, dtype=dtype, device=device)
    total, normed = add_rms_norm(x, delta, weight, EPS)
    assert_near(total, x.double() + delta.double(), dtype)
    assert_near(normed, ORACLE.rms_norm(total.double(), weight.double(), EPS), dtype)


@pytest.mark.parametrize("num_cols", [1536, 8192, 16384])
def test_real_widths(device: torch.device, num_cols: int) -> None:
    x = noise(2, num_cols, seed=0, dtype=torch.bfloat16, device=device)
    weight = noise(num_cols, seed=1, dtype=torch.bfloat16, device=device)
    wanted = ORACLE.rms_norm(x.double(), weight.double(), EPS)
    assert_near(rms_norm(x, weight, EPS), wanted, torch.bfloat16)


def test_heads_are_normed_one_by_one(device: torch.device) -> None:
    q = noise(5, 3, 80, seed=0, dtype=torch.float16, device=device)
    weight = noise(80, seed=1, dtype=torch.float16, device=device)
    wanted = ORACLE.rms_norm(q.double(), weight.double(), EPS)
    assert_near(rms_norm(q, weight, EPS), wanted, torch.float16)


def test_rows_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    x = far_rows(3, 100, device, torch.float16)
    x.copy_(noise(3, 100, seed=0, dtype=torch.float16, device=device))
    weight = torch.ones(100, dtype=torch.float16, device=device)
    wanted = ORACLE.rms_norm(x.double(), weight.double(), EPS)
    assert_near(rms_norm(x, weight, EPS), wanted, torch.float16)


def test_no_rows_give_no_rows(device: torch.device) -> None:
    weight = torch.ones(64, dtype=torch.float16, device=device)
    assert rms_norm(weight.new_empty(0, 64), weight, EPS).shape == (0, 64)


def test_too_wide_a_row_is_refused(device: torch.device) -> None:
    x = torch.zeros(1, 16385, dtype=torch.float16, device=device)
    with pytest.raises(ConfigError, match="at most 16384"):
        rms_norm(x, x[0], EPS)
