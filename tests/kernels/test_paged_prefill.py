"""paged_prefill against torch_ops in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from gpu_kernels import DTYPES, assert_near, drawn_inputs
from hypothesis import given
from hypothesis import strategies as st
from paged_attention import Heads, Inputs, far_apart, paged_inputs

from picert.errors import ConfigError
from picert.kernels.paged_prefill import paged_prefill

pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")
PLAIN: dict[str, Any] = {"scale": 0.125, "sliding_window": None, "soft_cap": None}


def attend(inputs: Inputs, options: dict[str, Any]) -> torch.Tensor:
    return paged_prefill(inputs.q, inputs.k_cache, inputs.v_cache, inputs.meta, **options)


def assert_is_attention(inputs: Inputs, options: dict[str, Any]) -> None:
    # Roundings: of each weight and of the result.
    assert_near(attend(inputs, options), inputs.wanted(options), inputs.q.dtype, roundings=2)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Lengths and how many of each are the step's: chunks behind a cached prefix, whole prompts."""
    lengths = draw(st.lists(st.integers(1, 150), min_size=1, max_size=3))
    return lengths, [draw(st.integers(0, length)) for length in lengths]


@drawn_inputs
@given(
    drawn=sequences(),
    heads=st.builds(
        Heads,
        kv=st.integers(1, 2),
        group=st.integers(1, 9),
        dim=st.sampled_from((64, 80, 96, 128, 256, 8)),
    ),
    block_size=st.sampled_from((1, 4, 16, 64)),
    window=st.sampled_from((None, 1, 5, 70)),
    cap=st.sampled_from((None, 0.5, 30.0)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_attention_is_that_of_torch_ops(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    drawn: tuple[list[int], list[int]],
    heads: Heads,
    block_size: int,
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    inputs = paged_inputs(
        *drawn, heads, block_size=block_size, dtype=dtype, device=device, seed=seed
    )
    options = {"scale": heads.dim**-0.5, "sliding_window": window, "soft_cap": cap}
    assert_is_attention(inputs, options)


def test_nothing_before_the_window_is_read(device: torch.device) -> None:
    inputs = paged_inputs([140], [20], Heads(kv=1, group=2, dim=64), device=device)
    options = {**PLAIN, "sliding_window": 9}
    wanted = inputs.wanted(options)
    blocks = inputs.meta.block_tables[0, : (140 - 20 - 9) // 16].long()
    for cache in (inputs.k_cache, inputs.v_cache):
        cache[blocks] = torch.nan
    assert_near(attend(inputs, options), wanted, torch.float16, roundings=2)


def test_rows_of_other_sequences_are_left_alone(device: torch.device) -> None:
    inputs = paged_inputs([40, 30, 1], [5, 7, 1], Heads(kv=1, group=2, dim=64), device=device)
    whole, meta = inputs.wanted(PLAIN), inputs.meta
    second = replace(
        meta,
        query_start=meta.query_start[1:3],
        context_lens=meta.context_lens[1:2],
        block_tables=meta.block_tables[1:2],
    )
    out = torch.full_like(inputs.q, -1)
    paged_prefill(inputs.q, inputs.k_cache, inputs.v_cache, second, **PLAIN, out=out)
    assert_near(out[5:12], whole[5:12], torch.float16, roundings=2)
    assert (out[:5] == -1).all()
    assert (out[12:] == -1).all()


def test_caches_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    inputs = paged_inputs([60, 50], [20, 1], Heads(kv=2, group=2, dim=64), device=device)
    assert_is_attention(far_apart(inputs), PLAIN)


@pytest.mark.parametrize(
    ("dim", "block_size", "changed", "error"),
    [
        (257, 16, {}, "at most 256 wanted"),
        (64, 12, {}, "a power of two wanted"),
        (64, 16, {"scale": 0.0}, "scale 0.0, a number above 0 wanted"),
        (64, 16, {"sliding_window": 0}, "sliding_window 0, a number above 0 wanted"),
    ],
)
def test_what_has_no_kernel_is_refused(
    device: torch.device, dim: int, block_size: int, changed: dict[str, Any], error: str
) -> None:
    heads = Heads(kv=1, group=1, dim=dim)
    inputs = paged_inputs([3], [1], heads, block_size=block_size, device=device)
    with pytest.raises(ConfigError, match=error):
        attend(inputs, {**PLAIN, **changed})


def test_caches_of_unlike_strides_are_refused(device: torch.device) -> None:
    inputs = paged_inputs([40], [1], Heads(kv=2, group=1, dim=64), device=device)
    other = inputs.v_cache.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(ConfigError, match="equal strides of both caches wanted"):
        attend(replace(inputs, v_cache=other), PLAIN)
