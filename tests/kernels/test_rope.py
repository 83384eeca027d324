"""rope_inplace against torch_ops in float64."""

from __future__ import annotations

import pytest
import torch
from gpu_kernels import DTYPES, assert_near, drawn_inputs, far_rows, noise
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from picert.errors import ConfigError
from picert.kernels.rope import rope_inplace
from picert.kernels.torch_ops import TorchOps

ORACLE = TorchOps()


def angles(num_tokens: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    angle = noise(num_tokens, head_dim // 2, seed=9, dtype=torch.float32, device=device) * 5
    return angle.cos(), angle.sin()


def assert_rotates(q: Tensor, k: Tensor) -> None:
    """In place, what torch_ops makes of the same."""
    cos, sin = angles(len(q), q.shape[-1], q.device)
    wanted = q.double(), k.double()
    ORACLE.rope_inplace(*wanted, cos.double(), sin.double())
    rope_inplace(q, k, cos, sin)
    assert_near(q, wanted[0], q.dtype)
    assert_near(k, wanted[1], k.dtype)


@drawn_inputs
@given(
    num_tokens=st.integers(0, 4),
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 20),
    half=st.integers(1, 128),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_rotation_is_that_of_torch_ops(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    num_tokens: int,
    num_kv_heads: int,
    group: int,
    half: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    num_heads = num_kv_heads * group
    # A slice of a fused projection: tokens are further apart than their heads are long.
    shape = (num_tokens, num_heads + num_kv_heads + 1, 2 * half)
    fused = noise(*shape, seed=seed, dtype=dtype, device=device)
    q, k, beyond = fused.split((num_heads, num_kv_heads, 1), dim=1)
    before = beyond.clone()
    assert_rotates(q, k)
    assert torch.equal(beyond, before)


def test_tokens_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    q, k = (far_rows(2, 3 * 64, device, torch.float16).view(2, 3, 64) for _ in range(2))
    for x in (q, k):
        x.copy_(noise(2, 3, 64, seed=0, dtype=torch.float16, device=device))
    assert_rotates(q, k)


@pytest.mark.parametrize("head_dim", [63, 258])
def test_head_sizes_without_a_kernel_are_refused(device: torch.device, head_dim: int) -> None:
    q = torch.zeros(1, 1, head_dim, dtype=torch.float16, device=device)
    cos = torch.zeros(1, head_dim // 2, device=device)
    with pytest.raises(ConfigError, match="an even number up to 256 wanted"):
        rope_inplace(q, q.clone(), cos, cos)
