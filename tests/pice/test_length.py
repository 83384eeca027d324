import pytest

from picert.pice.length import LengthPredictor, requested_points


@pytest.mark.parametrize(
    ("question", "points"),
    [
        ("List 10 ways to save water.", 10),
        ("Give me five tips for better sleep", 5),
        ("What are the three main branches of government?", 3),
        ("Name twelve fruits.", 12),
        ("How can I sleep better?", None),
        ("What happened in 1848 in Europe?", None),
        ("Give me a tip", None),
        ("List 5000 primes", None),
    ],
)
def test_requested_points(question: str, points: int | None) -> None:
    assert requested_points(question) == points


def test_cues_in_the_question_win() -> None:
    lengths = LengthPredictor()
    assert lengths.predict("Explain gravity in one sentence.").p50 <= 30
    assert 60 <= lengths.predict("Explain gravity in three sentences.").p50 <= 90
    assert 120 <= lengths.predict("Write about dogs in 100 words.").p50 <= 160
    assert lengths.predict("List 12 fruits rich in iron.").p50 > 300
    assert lengths.predict("Is water wet? Answer yes or no.").p50 < 10


def test_a_single_fact_is_predicted_short() -> None:
    lengths = LengthPredictor()
    assert lengths.predict("Who wrote Faust?").p50 < 80
    assert lengths.predict("What are the causes of inflation?").p50 > 100


def test_learns_the_quantiles_of_what_it_observed() -> None:
    lengths = LengthPredictor()
    question = "What are the causes of inflation?"
    for tokens in range(100, 200, 10):
        lengths.observe(question, tokens)
    assert lengths.predict(question).p50 == 150
    assert lengths.predict(question).p90 == 190


def test_forgets_what_is_long_ago() -> None:
    lengths = LengthPredictor()
    question = "What are the causes of inflation?"
    for tokens in [1000] * 200 + [50] * 64:
        lengths.observe(question, tokens)
    assert lengths.predict(question).p90 == 50


def test_kinds_learn_apart() -> None:
    lengths = LengthPredictor()
    before = lengths.predict("Write a poem about rain.")
    for _ in range(20):
        lengths.observe("What are the causes of inflation?", 500)
    assert lengths.predict("Write a poem about rain.") == before


def test_answers_whose_length_was_prescribed_teach_nothing() -> None:
    lengths = LengthPredictor()
    question = "What are the causes of inflation?"
    before = lengths.predict(question)
    for _ in range(20):
        lengths.observe(question + " Answer in one sentence.", 20)
        lengths.observe(question, 0)
    assert lengths.predict(question) == before


@pytest.mark.parametrize("question", ["", "\x00", "in 9999 words", "in 0 words", "word " * 10_000])
def test_forecasts_are_positive_and_ordered(question: str) -> None:
    forecast = LengthPredictor().predict(question)
    assert 0 < forecast.p50 <= forecast.p90


def test_two_predictors_share_nothing() -> None:
    first, second = LengthPredictor(), LengthPredictor()
    for _ in range(20):
        first.observe("What are the causes of inflation?", 7)
    assert second.predict("What are the causes of inflation?").p50 != 7
