"""The sampler against its naive float64 twin, and the independence of requests."""

import math

import numpy as np
import pytest
from naive_sampler import NaiveState, chances, log_softmax
from naive_sampler import sample as naive_sample
from naive_sampler import shaped as naive_shaped
from numpy.typing import NDArray

from picert import _C
from picert.engine.sampler import Sampler, SamplingState, sampling_state
from picert.errors import InvalidRequest
from picert.messages import GREEDY, SamplingParams, TokenLogprob

VOCAB = 3000
ISAS = _C.supported_isas()


def logits_of(seed: int, size: int = VOCAB) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def state_of(params: SamplingParams, **fields: object) -> SamplingState:
    values = {"prompt_ids": [], "end_ids": frozenset(), "seed": 0, **fields}
    return sampling_state(params, **values)  # type: ignore[arg-type]


def sample(sampler: Sampler, x: NDArray[np.float32], state: SamplingState) -> TokenLogprob | None:
    """One row."""
    (token,) = sampler.sample(x[None], [state])
    return token


def token_of(x: NDArray[np.float32], params: SamplingParams, **fields: object) -> TokenLogprob:
    token = sample(Sampler(len(x)), x, state_of(params, **fields))
    assert token is not None
    return token


DRAWN = [
    SamplingParams(),
    SamplingParams(temperature=0.3),
    SamplingParams(temperature=2.5),
    SamplingParams(top_k=1),
    SamplingParams(top_k=9),  # fewer than there are blocks
    SamplingParams(top_k=300),  # more
    SamplingParams(top_k=VOCAB),
    SamplingParams(top_k=10 * VOCAB),
    SamplingParams(top_p=0.5),
    SamplingParams(top_p=0.999, temperature=3.0),  # a nucleus of nearly everything
    SamplingParams(top_p=1e-9),
    SamplingParams(min_p=0.05),
    SamplingParams(min_p=1.0),
    SamplingParams(min_p=0.01, top_p=0.8),
    SamplingParams(temperature=0.7, top_k=50, top_p=0.9, min_p=0.02),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("params", DRAWN)
@pytest.mark.parametrize("size", [1, 2, 127, 129, VOCAB])
def test_candidates_equal_naive_ones(params: SamplingParams, size: int, isa: str) -> None:
    x = logits_of(size, size)
    ids, weights = _C.Sampler(size, None, isa).candidates(x, state_of(params).core)
    wanted = chances(x, params)
    assert ids == wanted.nonzero()[0].tolist()
    np.testing.assert_allclose(np.divide(weights, sum(weights)), wanted[ids], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("params", DRAWN)
def test_draws_equal_naive_ones_of_the_same_seed(params: SamplingParams, isa: str) -> None:
    sampler, state = Sampler(VOCAB, isa=isa), state_of(params, seed=11)
    naive = NaiveState(params, seed=11)
    for step in range(8):
        x = logits_of(step)
        token, wanted = sample(sampler, x, state), naive_sample(x, naive)
        assert token is not None
        assert wanted is not None
        assert token.token_id == wanted.token_id
        assert token.logprob == pytest.approx(wanted.logprob, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_random_numbers_are_those_of_numpy(seed: int) -> None:
    wanted = np.random.Generator(np.random.Philox(key=seed)).random(9)
    assert [_C.philox_uniform(seed, i) for i in range(9)] == wanted.tolist()


def test_ties_at_the_border_of_top_k_are_all_kept() -> None:
    x = np.array([1, 3, 2, 2, 2, 0], np.float32)
    ids, _ = _C.Sampler(6).candidates(x, state_of(SamplingParams(top_k=2)).core)
    assert ids == [1, 2, 3, 4]


def test_ties_at_the_border_of_top_p_go_by_token_id() -> None:
    state = state_of(SamplingParams(top_p=0.25))
    ids, _ = _C.Sampler(1000).candidates(np.zeros(1000, np.float32), state.core)
    assert ids == list(range(250))


@pytest.mark.parametrize("params", [SamplingParams(temperature=2.0), SamplingParams(top_p=0.95)])
def test_draws_follow_the_chances(params: SamplingParams) -> None:
    x, sampler, state = logits_of(1, 300), Sampler(300), state_of(params)
    draws = [sample(sampler, x, state) for _ in range(20_000)]
    counts = np.bincount([token.token_id for token in draws if token], minlength=300)
    wanted = chances(x, params)
    assert not counts[wanted == 0].any()
    wanted, counts = wanted[wanted > 0.001], counts[wanted > 0.001]
    deviation = (counts / 20_000 - wanted) / np.sqrt(wanted * (1 - wanted) / 20_000)
    assert np.abs(deviation).max() < 4.5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 5, 128, 1000, 49_152])
@pytest.mark.parametrize("logprobs", [None, 0, 1, 20])
def test_greedy_takes_the_best_with_its_logprob(logprobs: int | None, size: int, isa: str) -> None:
    x = logits_of(2, size)
    params = SamplingParams(temperature=0.0, logprobs=logprobs)
    token, wanted = sample(Sampler(size, isa=isa), x, state_of(params)), log_softmax(x)
    assert token is not None
    assert token.token_id == int(x.argmax())
    assert token.logprob == pytest.approx(wanted.max(), abs=1e-5)
    order = np.argsort(-wanted)[: logprobs or 0]
    assert [i for i, _ in token.top] == order.tolist()
    assert [p for _, p in token.top] == pytest.approx(wanted[order].tolist(), abs=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("place", [0, 127, 128, 700, 999])
def test_first_of_equal_logits_is_the_best(place: int, isa: str) -> None:
    x = np.zeros(1000, np.float32)
    x[place:] = 4.0
    token = sample(Sampler(1000, isa=isa), x, state_of(GREEDY))
    assert token is not None
    assert token.token_id == place


@pytest.mark.parametrize("isa", ISAS)
def test_logprobs_hold_where_logits_are_far_apart(isa: str) -> None:
    x = np.linspace(-300, 300, VOCAB, dtype=np.float32)
    x[:100] = -np.inf
    for row in (x, x[::-1].copy()):
        token = sample(Sampler(VOCAB, isa=isa), row, state_of(GREEDY))
        assert token is not None
        assert token.logprob == pytest.approx(log_softmax(row).max(), abs=1e-5)


def test_logprob_is_the_models_own_whatever_params_change() -> None:
    x = logits_of(3)
    params = SamplingParams(temperature=0.0, logit_bias={7: 100.0}, repetition_penalty=1.5)
    token = token_of(x, params, prompt_ids=[7])
    assert token.token_id == 7
    assert token.logprob == pytest.approx(log_softmax(x)[7], abs=1e-5)


@pytest.mark.parametrize("repetition", [1.0, 1.3])
def test_shaped_logits_equal_naive_ones(repetition: float) -> None:
    params = SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=0.4,
        frequency_penalty=0.7,
        logit_bias={3: 1.5, 12: -2.0},
        min_tokens=6,
    )
    prompt, generated = [1, 2, 3, 2], [3, 4, 4, 4, 9]
    x = logits_of(4, 16)
    state = state_of(params, prompt_ids=prompt, end_ids=frozenset([2, 5]))
    naive = NaiveState(params, prompt, frozenset([2, 5]), generated_ids=generated)
    for token in generated:
        state.core.record(token)
    wanted = naive_shaped(x, naive)
    state.core.shape(x, None)
    np.testing.assert_allclose(x, wanted, rtol=1e-5)


def test_shaping_leaves_the_logits_alone() -> None:
    x = logits_of(5)
    before = x.copy()
    token_of(x, SamplingParams(logit_bias={1: 5.0}, top_p=0.5))
    np.testing.assert_array_equal(x, before)


def test_logit_bias_of_minus_infinity_bans_a_token() -> None:
    x = logits_of(6)
    params = SamplingParams(temperature=0.0, logit_bias={int(x.argmax()): -math.inf})
    assert token_of(x, params).token_id == int(np.argsort(-x)[1])


@pytest.mark.parametrize("bias", [math.nan, math.inf, -1001.0])
def test_logit_bias_that_is_none_is_refused_wherever_it_stands(bias: float) -> None:
    for biases in ({1: bias, 2: 3.0}, {2: 3.0, 1: bias}):
        with pytest.raises(InvalidRequest, match="logit_bias is"):
            SamplingParams(logit_bias=biases)


def test_end_tokens_are_out_of_reach_before_min_tokens() -> None:
    x = np.array([9, 1, 2], np.float32)
    state = state_of(
        SamplingParams(temperature=0.0, min_tokens=2, max_tokens=5), end_ids=frozenset([0])
    )
    sampler = Sampler(3)
    drawn = [sample(sampler, x, state) for _ in range(3)]
    assert [token.token_id for token in drawn if token] == [2, 2, 0]


class OddOnly:
    """A mask that knows fewer tokens than the model."""

    def allowed(self, generated_ids: list[int]) -> NDArray[np.bool_] | None:
        return None if generated_ids else np.arange(VOCAB - 10) % 2 == 1


def test_mask_allows_only_what_it_names() -> None:
    x = logits_of(7)
    x[-1] = 100.0
    sampler, state = Sampler(VOCAB), state_of(GREEDY, mask=OddOnly())
    first, second = sample(sampler, x, state), sample(sampler, x, state)
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
    assert sample(Sampler(VOCAB), logits_of(8), state_of(params, mask=Nothing())) is None


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 17, 2999])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(top_p=0.9)])
def test_logits_that_are_not_finite_give_no_token(
    value: float, place: int, params: SamplingParams, isa: str
) -> None:
    x = logits_of(9)
    x[place] = value
    assert sample(Sampler(VOCAB, isa=isa), x, state_of(params)) is None


def test_row_without_any_token_gives_none() -> None:
    x = np.full(VOCAB, -np.inf, np.float32)
    assert sample(Sampler(VOCAB), x, state_of(GREEDY)) is None


def test_tiny_temperature_is_greedy() -> None:
    x = logits_of(10)
    assert token_of(x, SamplingParams(temperature=1e-300)).token_id == int(x.argmax())


def test_columns_past_the_vocabulary_are_never_drawn() -> None:
    x = np.stack([logits_of(12), logits_of(13)])
    x[:, -1] = 99.0
    tokens = Sampler(VOCAB - 1).sample(x, [state_of(GREEDY), state_of(GREEDY)])
    assert [token.token_id for token in tokens if token] == x[:, :-1].argmax(axis=1).tolist()


def test_states_that_do_not_match_the_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="logits has 1 rows for 2 states"):
        Sampler(VOCAB).sample(logits_of(1)[None], [state_of(GREEDY), state_of(GREEDY)])
    with pytest.raises(ValueError, match="has 3000 columns, must have at least 3001"):
        Sampler(VOCAB + 1).sample(logits_of(1)[None], [state_of(GREEDY)])


def test_logits_of_another_type_are_refused() -> None:
    wide: object = logits_of(1)[None].astype(np.float64)
    with pytest.raises(ValueError, match="logits is an array of float64, must be"):
        Sampler(VOCAB).sample(wide, [state_of(GREEDY)])  # type: ignore[arg-type]


def draws(seed: int, others: int) -> list[int]:
    """Tokens of one request while `others` sample in the same batch, each in its own way."""
    sampler = Sampler(VOCAB)
    state = state_of(SamplingParams(top_p=0.9), seed=seed)
    crowd = [state_of(DRAWN[i], seed=1000 + i) for i in range(others)]
    drawn = []
    for step in range(20):
        rows = np.stack([*(logits_of(500 + i) for i in range(others)), logits_of(step)])
        token = sampler.sample(rows, [*crowd, state])[-1]
        assert token is not None
        drawn.append(token.token_id)
    return drawn


def test_seeded_draws_do_not_depend_on_neighbours() -> None:
    assert draws(5, others=0) == draws(5, others=7)


@pytest.mark.parametrize("num_threads", [2, 3, 7])
@pytest.mark.parametrize("size", [1, 8192, 8193, 49_152])
def test_tokens_have_the_same_bits_with_any_number_of_threads(num_threads: int, size: int) -> None:
    rows = np.stack([logits_of(20 + i, size) for i in range(5)])
    kinds = [GREEDY, *DRAWN[:3], SamplingParams(top_k=9, repetition_penalty=1.2, logprobs=3)]
    drawn = []
    for team in (None, _C.ThreadPool(num_threads)):
        states = [state_of(params, seed=i) for i, params in enumerate(kinds)]
        sampler = Sampler(size, team)
        drawn.append([sampler.sample(rows, states) for _ in range(3)])
    assert drawn[0] == drawn[1]


def test_other_seeds_draw_otherwise() -> None:
    assert draws(5, others=0) != draws(6, others=0)
