"""The sampling kernel against the slow twin that the CPU's sampler is held to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gpu_kernels import drawn_inputs, far_rows
from hypothesis import given
from hypothesis import strategies as st
from naive_sampler import chances, log_softmax
from torch import Tensor

from picert.errors import ConfigError
from picert.kernels.ops import Ops, SamplingRows
from picert.kernels.sample import sample
from picert.kernels.torch_ops import TorchOps
from picert.kernels.triton_ops import TritonOps
from picert.messages import SamplingParams

ROUNDING = 1e-5  # of a cumulative chance in fp32, against float64
BOTH: tuple[Ops, ...] = (TritonOps(), TorchOps())


def rows_of(params: list[SamplingParams], uniform: list[float]) -> SamplingRows:
    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)

    return SamplingRows(
        temperature=column([p.temperature for p in params]),
        top_k=torch.tensor([p.top_k for p in params], dtype=torch.int32),
        top_p=column([p.top_p for p in params]),
        min_p=column([p.min_p for p in params]),
        uniform=column(uniform),
    )


def on(device: torch.device, rows: SamplingRows) -> SamplingRows:
    return SamplingRows(
        *(
            getattr(rows, name).to(device)
            for name in ("temperature", "top_k", "top_p", "min_p", "uniform")
        )
    )


def random_logits(num_rows: int, vocab: int, seed: int, *, step: float) -> Tensor:
    """Multiples of `step`, so that some tie."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, vocab, generator=generator) * 3 / step).round() * step


def assert_drawn(token: int, logits: Tensor, params: SamplingParams, uniform: float) -> None:
    """`uniform` falls into the token's part of the cumulative chances, up to rounding."""
    each = chances(logits.numpy(), params)
    assert each[token] > 0, "a token outside top-k, top-p or min-p"
    end = float(each[: token + 1].sum())
    assert end - float(each[token]) - ROUNDING <= uniform <= end + ROUNDING


@drawn_inputs
@given(
    vocab=st.integers(1, 1500),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.03]),
    temperature=st.floats(0.1, 2.0),
    seed=st.integers(0, 2**32),
)
def test_draw_is_where_the_cumulative_chances_say(  # noqa: PLR0913 - what hypothesis draws
    device: torch.device,
    vocab: int,
    top_k: int,
    top_p: float,
    min_p: float,
    temperature: float,
    seed: int,
) -> None:
    # A step of 1/4 keeps chances of neighbours far enough apart for fp32 to order them as float64.
    logits = random_logits(2, vocab, seed, step=0.25)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    uniform = torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()
    rows = on(device, rows_of([params] * 2, uniform))
    for ops in BOTH:
        tokens, _ = ops.sample(logits.to(device), rows)
        for row, token in enumerate(tokens.tolist()):
            assert_drawn(token, logits[row], params, uniform[row])


def test_rows_do_not_depend_on_their_neighbours(device: torch.device) -> None:
    logits = random_logits(4, 300, 0, step=0.01).to(device)
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0, top_k=5),
        SamplingParams(temperature=0.7, top_p=0.8),
        SamplingParams(temperature=1.5, min_p=0.1),
    ]
    together, logprobs = sample(logits, on(device, rows_of(params, [0.5] * 4)))
    for row in range(4):
        rows = on(device, rows_of(params[row : row + 1], [0.5]))
        token, logprob = sample(logits[row : row + 1], rows)
        assert int(token) == int(together[row])
        assert float(logprob) == float(logprobs[row])
    assert int(together[0]) == int(logits[0].argmax())


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_ends_of_the_range_give_the_ends_of_what_is_kept(
    device: torch.device, uniform: float
) -> None:
    logits = torch.full((1, 1500), -100.0)
    logits[0, [7, 1100, 1400]] = torch.tensor([1.0, 2.0, 1.0])
    params = SamplingParams(temperature=1.0, top_k=3)
    token, _ = sample(logits.to(device), on(device, rows_of([params], [uniform])))
    assert int(token) == (7 if uniform == 0.0 else 1400)


def test_ties_at_the_border_of_top_p_go_by_id(device: torch.device) -> None:
    logits = torch.zeros(1, 2000)
    params = SamplingParams(temperature=1.0, top_p=0.0014)  # of 2,000 equal ones: three
    last = 1.0 - 2.0**-24
    for ops in BOTH:
        token, _ = ops.sample(logits.to(device), on(device, rows_of([params], [last])))
        assert int(token) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_have_no_token(device: torch.device, value: float) -> None:
    logits = torch.zeros(2, 50)
    logits[0, 3] = value
    for ops in BOTH:
        for temperature in (0.0, 1.0):
            rows = on(device, rows_of([SamplingParams(temperature=temperature)] * 2, [0.0] * 2))
            token_ids, logprobs = ops.sample(logits.to(device), rows)
            assert token_ids.tolist() == [-1, 0]
            assert float(logprobs[1]) == pytest.approx(-math.log(50))
        nothing = torch.full((1, 50), float("-inf"), device=device)
        token_ids, _ = ops.sample(nothing, on(device, rows_of([SamplingParams()], [0.5])))
        assert token_ids.tolist() == [-1]


def test_rows_may_lie_beyond_two_to_the_31(device: torch.device) -> None:
    logits = random_logits(3, 50, seed=5, step=0.01)
    far = far_rows(3, 50, device, torch.float32)
    far.copy_(logits)
    rows = on(device, rows_of([SamplingParams(temperature=0.8, top_k=20)] * 3, [0.1, 0.5, 0.9]))
    near_ids, near_logprobs = sample(logits.to(device), rows)
    ids, logprobs = sample(far, rows)
    assert torch.equal(ids, near_ids)
    assert torch.equal(logprobs, near_logprobs)


def test_other_dtypes_are_refused(device: torch.device) -> None:
    logits = torch.zeros(1, 8, dtype=torch.float16, device=device)
    with pytest.raises(ConfigError, match="rows of consecutive float32 wanted"):
        sample(logits, on(device, rows_of([SamplingParams()], [0.5])))


def test_tokens_that_tie_with_the_last_of_the_top_k_are_all_in(device: torch.device) -> None:
    logits = random_logits(1, 400, 3, step=1.0)  # many ties at the border
    params = SamplingParams(temperature=1.0, top_k=10)
    kept = set(np.flatnonzero(chances(logits[0].numpy(), params)).tolist())
    assert len(kept) > 10
    uniform = [(i + 0.5) / 12 for i in range(12)]
    rows = on(device, rows_of([params] * 12, uniform))
    for ops in BOTH:
        token_ids, _ = ops.sample(logits.expand(12, -1).contiguous().to(device), rows)
        drawn = token_ids.tolist()
        assert set(drawn) <= kept
        assert max(drawn) > sorted(kept)[len(kept) // 2]


def test_numbers_spread_evenly_give_each_token_its_chance(device: torch.device) -> None:
    count = 64
    params = SamplingParams(temperature=0.8, top_p=0.9)
    logits = random_logits(1, 12, 5, step=0.01)
    rows = on(device, rows_of([params] * count, [(i + 0.5) / count for i in range(count)]))
    for ops in BOTH:
        token_ids, _ = ops.sample(logits.expand(count, -1).contiguous().to(device), rows)
        shares = np.bincount(token_ids.cpu().numpy(), minlength=12) / count
        np.testing.assert_allclose(shares, chances(logits[0].numpy(), params), atol=1.01 / count)


def test_log_probability_is_the_models_own(device: torch.device) -> None:
    """Whatever the temperature and the cuts; over several blocks, with tokens that cannot come."""
    logits = random_logits(3, 2500, 9, step=0.001)
    logits[:, :1100] = float("-inf")
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.7),
        SamplingParams(temperature=0.6, top_k=4),
    ]
    rows = on(device, rows_of(params, [0.3, 0.6, 0.9]))
    for ops in BOTH:
        token_ids, logprobs = ops.sample(logits.to(device), rows)
        wanted = [log_softmax(logits[row].numpy())[token] for row, token in enumerate(token_ids)]
        np.testing.assert_allclose(logprobs.cpu().numpy(), wanted, atol=1e-5)
