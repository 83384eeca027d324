"""The trained heads: what they learn of a rule that the free features do not know."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.errors import ConfigError
from picert.pice.heads import NUM_FEATURES, Heads, dot, features, logistic
from picert.pice.length import LengthPredictor
from picert.pice.training import (
    MIN_QUESTIONS,
    Answered,
    area_under_curve,
    fit,
    kendall_tau,
    train,
)

LIST = "Here you are:\n1. Walk every day\n2. Sleep eight hours\n3. Talk with friends\n"
PROSE = "It depends on many things, and no list would do it justice. Ask again later."
ZERO = Heads(
    suits=(0.0,) * NUM_FEATURES, length=(0.0, 4.0, *(0.0,) * (NUM_FEATURES - 2)), length_error=0.5
)


def answers(count: int, seed: int = 3) -> list[Answered]:
    """Questions about gardens are answered in long lists, those about ships in short prose; the
    wording is the same."""
    rng = random.Random(seed)
    found = []
    for n in range(count):
        noun = "gardens" if n % 2 else "ships"
        other = " ".join(rng.sample(["old", "small", "quiet", "famous", "wooden", "northern"], 2))
        text = LIST if noun == "gardens" else PROSE
        length = rng.randint(280, 320) if noun == "gardens" else rng.randint(80, 120)
        found.append(Answered(f"Tell something of {other} {noun}", text, length))
    return found


def test_an_answer_is_a_list_if_the_model_wrote_points_and_no_code() -> None:
    assert Answered("q", LIST, 30).is_list
    assert Answered("q", "- one thing\n- another thing\n- third thing\n", 9).is_list
    assert not Answered("q", PROSE, 20).is_list
    assert not Answered("q", "1. Walk\n2. Sleep\n", 6).is_list
    assert not Answered("q", LIST + "```python\nprint()\n```", 40).is_list


def test_heads_learn_what_wording_does_not_tell() -> None:
    heads, scores = train(answers(60))
    assert scores.num_lists == 30
    assert scores.auc > 0.95
    assert scores.free_auc == pytest.approx(0.5, abs=0.1)
    assert scores.tau > 0.45  # of two lengths with noise: half of the pairs are of one kind
    garden, ship = "Tell something of huge gardens", "Tell something of huge ships"
    assert heads.suitability(garden).score > 0.5 > heads.suitability(ship).score
    assert heads.tokens(garden)[0] > 2 * heads.tokens(ship)[0]


def test_training_does_the_same_twice() -> None:
    assert train(answers(30)) == train(answers(30))


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"{MIN_QUESTIONS} are needed"):
        train(answers(MIN_QUESTIONS - 1))


def test_one_weight_finds_the_line_through_its_points() -> None:
    inputs = [{0: 1.0, 1: float(x)} for x in (-1, 0, 1, 2)] * 20
    weights = fit(inputs, [1.0, 3.0, 5.0, 7.0] * 20, lambda value: value)
    assert dot(weights, {0: 1.0, 1: 1.5}) == pytest.approx(6.0, abs=0.3)


def test_area_under_the_curve_counts_pairs_in_order() -> None:
    assert area_under_curve([0.9, 0.8, 0.1], [1, 1, 0]) == 1.0
    assert area_under_curve([0.9, 0.2, 0.5, 0.5], [1, 0, 1, 0]) == 3.5 / 4
    assert area_under_curve([0.3, 0.4], [1, 1]) == 0.5


def test_kendalls_tau_is_the_agreement_of_two_orders() -> None:
    assert kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau([1, 1], [1, 2]) == 0.0


@given(st.text(max_size=300))
def test_any_question_has_features_and_a_verdict(question: str) -> None:
    assert all(0 <= index < NUM_FEATURES for index in features(question))
    assert 0.0 <= ZERO.suitability(question).score <= 1.0
    p50, p90 = ZERO.tokens(question)
    assert 0 <= p50 <= p90 < math.inf


@pytest.mark.parametrize(
    "changes", [{"suits": (0.0,)}, {"length": (math.nan,) * NUM_FEATURES}, {"length_error": -1.0}]
)
def test_heads_of_another_shape_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"weights|range"):
        msgspec.structs.replace(ZERO, **changes)


def test_log_odds_of_any_size_are_a_probability() -> None:
    assert logistic(0.0) == 0.5
    assert 0.0 <= logistic(-1e9) < logistic(1e9) <= 1.0


def test_a_trained_length_follows_what_answers_turn_out_to_be() -> None:
    lengths = LengthPredictor(lambda question: (100.0, 180.0))
    assert lengths.predict("Why is the sky blue?").p50 == 100
    for _ in range(100):
        lengths.observe("Why is the sky blue?", 200)
    assert lengths.predict("Why is the sky blue?").p50 == pytest.approx(200, rel=0.05)
    assert lengths.predict("Answer in two sentences: why?").p50 == 50
