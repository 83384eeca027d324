"""The sampler against naive float64 code, and the independence of requests."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from picert.engine.sampler import Sampler, SamplingState
from picert.messages import GREEDY, SamplingParams

VOCAB = 3000


def logits_of(seed: int, size: int = VOCAB) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def state_of(params: SamplingParams, **fields: object) -> SamplingState:
    values = {"prompt_ids": [], "end_ids": frozenset(), "seed": 0, **fields}
    return SamplingState(params, **values)  # type: ignore[arg-type]


def log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    return np.asarray(wide - wide.max() - math.log(np.exp(wide - wide.max()).sum()))


def naive_chances(x: NDArray[np.float32], params: SamplingParams) -> dict[int, float]:
    """Sort everything, filter in turn, renormalise: token id -> chance."""
    z = x.astype(np.float64) / params.temperature
    p = np.exp(z - z.max())
    p /= p.sum()
    order = sorted(range(len(x)), key=lambda i: (-p[i], i))
    order = [i for i in order if p[i] >= params.min_p * p[order[0]]]
    if params.top_k:
        kth = x[order[min(params.top_k, len(order)) - 1]]
        order = [i for i in order if x[i] >= kth]
    total = sum(p[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += p[i]
        if mass >= params.top_p * total and params.top_p < 1:
            break
    total = sum(p[i] for i in kept)
    return {i: p[i] / total for i in kept}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.3),
        SamplingParams(temperature=2.5),
        SamplingParams(top_k=1),
        SamplingParams(top_k=40),
        SamplingParams(top_k=VOCAB),
        SamplingParams(top_k=10 * VOCAB),
        SamplingParams(top_p=0.5),
        SamplingParams(top_p=0.999, temperature=3.0),  # a nucleus of nearly everything
        SamplingParams(top_p=1e-9),
        SamplingParams(min_p=0.05),
        SamplingParams(min_p=1.0),
        SamplingParams(temperature=0.7, top_k=50, top_p=0.9, min_p=0.02),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_candidates_equal_naive_ones(params: SamplingParams, seed: int) -> None:
    x = logits_of(seed)
    ids, weights = Sampler(VOCAB).candidates(x, params)
    wanted = naive_chances(x, params)
    chances = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    assert sorted(ids.tolist()) == sorted(wanted)
    np.testing.assert_allclose(chances, [wanted[i] for i in ids.tolist()], rtol=1e-4, atol=1e-12)


def test_ties_at_the_border_of_top_k_are_all_kept() -> None:
    x = np.array([1, 3, 2, 2, 2, 0], np.float32)
    ids, _ = Sampler(6).candidates(x, SamplingParams(top_k=2))
    assert ids.tolist() == [1, 2, 3, 4]


def test_ties_at_the_border_of_top_p_go_by_token_id() -> None:
    ids, _ = Sampler(1000).candidates(np.zeros(1000, np.float32), SamplingParams(top_p=0.25))
    assert ids.tolist() == list(range(250))


def test_draws_follow_the_chances() -> None:
    x, params = logits_of(1, 8), SamplingParams(temperature=2.0)
    sampler, state = Sampler(8), state_of(params)
    counts = np.zeros(8)
    for _ in range(20_000):
        token = sampler.sample(x, state)
        assert token is not None
        counts[token.token_id] += 1
    wanted = naive_chances(x, params)
    chances = np.array([wanted[i] for i in range(8)])
    deviation = (counts / 20_000 - chances) / np.sqrt(chances * (1 - chances) / 20_000)
    assert np.abs(deviation).max() < 4.5


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.0, logprobs=4)])
def test_greedy_takes_the_best_with_its_logprob(params: SamplingParams) -> None:
    x = logits_of(2)
    token = Sampler(VOCAB).sample(x, state_of(params))
    wanted = log_softmax(x)
    assert token is not None
    assert token.token_id == int(x.argmax())
    assert token.logprob == pytest.approx(wanted.max(), abs=1e-4)
    order = np.argsort(-wanted)[: params.logprobs or 0]
    assert [i for i, _ in token.top] == order.tolist()
    assert [p for _, p in token.top] == pytest.approx(wanted[order].tolist(), abs=1e-4)


def test_logprob_is_the_models_own_whatever_params_change() -> None:
    x = logits_of(3)
    params = SamplingParams(temperature=0.0, logit_bias={7: 100.0}, repetition_penalty=1.5)
    token = Sampler(VOCAB).sample(x, state_of(params, prompt_ids=[7]))
    assert token is not None
    assert token.token_id == 7
    assert token.logprob == pytest.approx(log_softmax(x)[7], abs=1e-4)


def test_penalties_equal_naive_ones() -> None:
    params = SamplingParams(
        temperature=0.0, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.7
    )
    prompt, generated = [1, 2, 3, 2], [3, 4, 4, 4, 9]
    x = logits_of(4, 16)
    state = state_of(params, prompt_ids=prompt)
    for token in generated:
        state.record(token)
    wanted = x.astype(np.float64)
    for i in {*prompt, *generated}:
        wanted[i] = wanted[i] / 1.3 if wanted[i] > 0 else wanted[i] * 1.3
    for i in set(generated):
        wanted[i] -= 0.4 + 0.7 * generated.count(i)
    np.testing.assert_allclose(state.shape(x), wanted, rtol=1e-5)


def test_shaping_leaves_the_logits_alone() -> None:
    x = logits_of(5)
    before = x.copy()
    Sampler(VOCAB).sample(x, state_of(SamplingParams(logit_bias={1: 5.0}, top_p=0.5)))
    np.testing.assert_array_equal(x, before)


def test_logit_bias_of_minus_infinity_bans_a_token() -> None:
    x = logits_of(6)
    best = int(x.argmax())
    params = SamplingParams(temperature=0.0, logit_bias={best: -math.inf})
    token = Sampler(VOCAB).sample(x, state_of(params))
    assert token is not None
    assert token.token_id == int(np.argsort(-x)[1])


def test_end_tokens_are_out_of_reach_before_min_tokens() -> None:
    x = np.array([9, 1, 2], np.float32)
    state = state_of(
        SamplingParams(temperature=0.0, min_tokens=2, max_tokens=5), end_ids=frozenset([0])
    )
    sampler = Sampler(3)
    drawn = [sampler.sample(x, state) for _ in range(3)]
    assert [token.token_id for token in drawn if token] == [2, 2, 0]


class OddOnly:
    """A mask that knows fewer tokens than the model."""

    def allowed(self, generated_ids: list[int]) -> NDArray[np.bool_] | None:
        return None if generated_ids else np.arange(VOCAB - 10) % 2 == 1


def test_mask_allows_only_what_it_names() -> None:
    x = logits_of(7)
    x[-1] = 100.0
    sampler, state = Sampler(VOCAB), state_of(GREEDY, mask=OddOnly())
    first, second = sampler.sample(x, state), sampler.sample(x, state)
    assert first is not None
    assert second is not None
    odd = x[: VOCAB - 10].copy()
    odd[::2] = -np.inf
    assert first.token_id == int(odd.argmax())
    assert second.token_id == VOCAB - 1  # from then on it allows everything


class Nothing:
    def allowed(self, generated_ids: list[int]) -> NDArray[np.bool_] | None:
        return np.zeros(VOCAB, np.bool_)


@pytest.mark.parametrize("params", [GREEDY, SamplingParams()])
def test_mask_that_allows_nothing_gives_no_token(params: SamplingParams) -> None:
    assert Sampler(VOCAB).sample(logits_of(8), state_of(params, mask=Nothing())) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams()])
def test_logits_that_are_not_finite_give_no_token(value: float, params: SamplingParams) -> None:
    x = logits_of(9)
    x[17] = value
    assert Sampler(VOCAB).sample(x, state_of(params)) is None


def test_tiny_temperature_is_greedy() -> None:
    x = logits_of(10)
    token = Sampler(VOCAB).sample(x, state_of(SamplingParams(temperature=1e-300)))
    assert token is not None
    assert token.token_id == int(x.argmax())


def draws(seed: int, others: int) -> list[int]:
    """Tokens of one request while `others` sample from the same sampler in between."""
    sampler = Sampler(VOCAB)
    state = state_of(SamplingParams(top_p=0.9), seed=seed)
    crowd = [state_of(SamplingParams(top_k=9), seed=1000 + i) for i in range(others)]
    drawn = []
    for step in range(20):
        for other in crowd:
            sampler.sample(logits_of(500 + step), other)
        token = sampler.sample(logits_of(step), state)
        assert token is not None
        drawn.append(token.token_id)
    return drawn


def test_seeded_draws_do_not_depend_on_neighbours() -> None:
    assert draws(5, others=0) == draws(5, others=7)


def test_other_seeds_draw_otherwise() -> None:
    assert draws(5, others=0) != draws(6, others=0)
