"""quant_linear against the product with the dequantised weight in float64."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from gpu_kernels import DTYPES, assert_near, drawn_inputs, far_rows, noise
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from picert.errors import ConfigError
from picert.kernels.quant_linear import SKINNY_ROWS, quant_linear
from picert.kernels.quant_weight import Codes, pack, quantize

pytestmark = pytest.mark.usefixtures("fresh_memory_is_nan")
BITS: tuple[Literal[4, 8], ...] = (4, 8)


def random_codes(  # noqa: PLR0913 - what a matrix may differ in
    num_outputs: int,
    num_inputs: int,
    *,
    bits: Literal[4, 8],
    has_min: bool,
    seed: int,
    device: torch.device,
) -> Codes:
    """Any codes with scales of such size that results are about 1."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_outputs, num_inputs // 32)
    codes = torch.randint(0, 2**bits, (num_outputs, num_inputs), generator=generator)
    largest = 2.0**-bits / num_inputs**0.5
    scale, minimum = (torch.randn(shape, generator=generator) * largest for _ in range(2))
    return Codes(
        bits,
        0 if has_min else 2 ** (bits - 1),
        codes.to(torch.uint8).to(device),
        # As a file has them: fp16.
        scale.half().float().to(device),
        (8 * minimum).half().float().to(device) if has_min else None,
    )


def assert_is_product(x: Tensor, codes: Codes, bias: Tensor | None) -> None:
    """quant_linear gives what float64 does, but for weights rounded to the dtype of x."""
    wanted = x.double() @ codes.dequantize().t()
    if bias is not None:
        wanted += bias.double()
    # Roundings of each weight (its scale, product and sum) and of the result.
    assert_near(quant_linear(x, pack(codes), bias), wanted, x.dtype, roundings=4)


@drawn_inputs
@given(
    num_rows=st.integers(0, 40),
    num_outputs=st.integers(1, 300),
    num_groups=st.integers(1, 9),
    bits=st.sampled_from(BITS),
    has_min=st.booleans(),
    has_bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_product_is_that_of_the_dequantised_weight(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    num_rows: int,
    num_outputs: int,
    num_groups: int,
    bits: Literal[4, 8],
    has_min: bool,
    has_bias: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    codes = random_codes(
        num_outputs, 32 * num_groups, bits=bits, has_min=has_min, seed=seed, device=device
    )
    x = noise(num_rows, 32 * num_groups, seed=seed, dtype=dtype, device=device)
    bias = noise(num_outputs, seed=seed, dtype=dtype, device=device) if has_bias else None
    assert_is_product(x, codes, bias)


@pytest.mark.parametrize("num_rows", [1, SKINNY_ROWS, SKINNY_ROWS + 1, 130])
def test_row_counts_at_the_borders_of_the_kernels(device: torch.device, num_rows: int) -> None:
    codes = random_codes(200, 640, bits=4, has_min=True, seed=1, device=device)
    x = noise(num_rows, 640, seed=2, dtype=torch.float16, device=device)
    assert_is_product(x, codes, None)


def test_rows_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    codes = random_codes(64, 64, bits=8, has_min=False, seed=1, device=device)
    for num_rows in (2, SKINNY_ROWS + 1):
        x = far_rows(num_rows, 64, device, torch.float16)
        x.copy_(noise(num_rows, 64, seed=0, dtype=torch.float16, device=device))
        assert_is_product(x, codes, None)


@pytest.mark.parametrize("bits", BITS)
def test_rows_have_the_same_bits_in_any_batch_of_decodes(
    device: torch.device, bits: Literal[4, 8]
) -> None:
    codes = random_codes(130, 512, bits=bits, has_min=False, seed=1, device=device)
    weight = pack(codes)
    x = noise(SKINNY_ROWS, 512, seed=0, dtype=torch.bfloat16, device=device)
    together = quant_linear(x, weight)
    for row in range(0, SKINNY_ROWS, 5):
        assert torch.equal(quant_linear(x[row : row + 1], weight)[0], together[row])


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e5])
def test_weights_of_any_size_keep_their_precision(device: torch.device, size: float) -> None:
    codes = random_codes(64, 96, bits=4, has_min=True, seed=1, device=device)
    assert codes.minimum is not None
    larger = Codes(4, 0, codes.codes, codes.scale * size, codes.minimum * size)
    x = noise(3, 96, seed=0, dtype=torch.float16, device=device)
    out = quant_linear(x / size if size > 1 else x, pack(larger)).double()
    wanted = (x.double() @ codes.dequantize().t()) * min(size, 1.0)
    if size >= 1:
        assert_near(out.half(), wanted, torch.float16, roundings=4)
    else:  # too small for fp16, but not to the last bit
        assert float((out - wanted).abs().max()) <= 2.0**-24


@pytest.mark.parametrize("bits", BITS)
def test_quantised_weights_are_near_what_they_were(bits: Literal[4, 8]) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    codes = quantize(weight, bits)
    error = (codes.dequantize() - weight).abs().amax(dim=1)
    assert (error <= codes.scale.amax(dim=1) * 0.5001).all()


def test_inputs_that_do_not_fit_are_refused(device: torch.device) -> None:
    codes = random_codes(8, 64, bits=4, has_min=False, seed=0, device=device)
    x = torch.zeros(2, 32, dtype=torch.float16, device=device)
    with pytest.raises(ConfigError, match="rows of 64 consecutive values wanted"):
        quant_linear(x, pack(codes))
    with pytest.raises(ConfigError, match="a multiple of 32 wanted"):
        pack(Codes(4, 8, codes.codes[:, :40], codes.scale, None))
    with pytest.raises(ConfigError, match="at most 8 wanted"):
        pack(Codes(4, 9, codes.codes, codes.scale, None))
