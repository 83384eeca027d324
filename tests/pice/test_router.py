"""The table is the project's own: seven questions a class. The weights were not fitted to it."""

from itertools import product

import pytest

from picert.pice.router import QuestionClass, classify, is_one_fact, suitability

SUITABLE: dict[QuestionClass, tuple[str, ...]] = {
    "generic": (
        "What are the most effective ways to deal with stress?",
        "How can I become a better public speaker?",
        "What habits help people stay healthy as they grow older?",
        "How should I prepare for my first job interview?",
        "Give me some tips for saving money on groceries.",
        "What are the main differences between renting and owning a home?",
        "How do you keep a long-distance friendship alive?",
    ),
    "knowledge": (
        "What were the main causes of the First World War?",
        "Describe the stages of the water cycle.",
        "What are the effects of deforestation on local climate?",
        "How did the printing press change European society?",
        "Compare solar power and wind power as sources of electricity.",
        "Explain the roles of the different parts of a plant cell.",
        "What factors led to the decline of the Roman Empire?",
    ),
    "common-sense": (
        "Why do people move from the countryside to big cities?",
        "What are some signs that a restaurant is popular with locals?",
        "How can you tell whether someone is bored by a conversation?",
        "Why might someone prefer a paper map to a navigation app?",
        "What makes a city pleasant to walk in?",
        "Why do so many people find it hard to get up early?",
        "What are reasons for a shop to close during lunch time?",
    ),
    "counterfactual": (
        "What if the Internet had been invented in 1900?",
        "What would happen if all bees disappeared?",
        "How would daily life change if nobody needed to sleep?",
        "What would the world look like if oil had never been discovered?",
        "Suppose the Moon were twice as close to Earth: what would be different?",
        "What if every country used the same currency?",
        "How might history have been different if Columbus had never sailed?",
    ),
}
UNSUITABLE: dict[QuestionClass, tuple[str, ...]] = {
    "coding": (
        "Write a Python function that reverses a linked list.",
        "Implement a queue with two stacks in Java.",
        "Why does this code raise an IndexError: for i in range(len(a)+1): print(a[i])?",
        "Write an SQL query that finds the second highest salary.",
        "Create a regex that matches an IPv4 address.",
        "How do I implement binary search in C++?",
        "Write a bash script that renames all .txt files to .md.",
    ),
    "math": (
        "Solve for x: 3x + 7 = 22.",
        "A train travels 120 km in 1.5 hours. What is its average speed in km/h?",
        "What is the derivative of x^3 - 4x?",
        "What is 17 * 23?",
        "If two dice are rolled, what is the probability that the sum is seven?",
        "Find the area of a triangle with sides 3, 4 and 5.",
        "Prove that the square root of two is irrational.",
    ),
    "fermi": (
        "How many piano tuners work in Chicago?",
        "Estimate the number of grains of sand on a beach 1 km long.",
        "How much water does a city of a million people use in a day?",
        "How many balloons would it take to lift a car?",
        "How long would it take to walk around the Earth?",
        "Roughly how many words does a person speak in a year?",
        "How much does a cloud weigh?",
    ),
    "writing": (
        "Write a short story about a lighthouse keeper.",
        "Compose a poem about autumn rain.",
        "Draft an email to my landlord about a broken heater.",
        "Rewrite this sentence in a formal tone: gonna be late, sorry!",
        "Translate 'good morning, everyone' into French.",
        "Please write a product description for a wooden toothbrush.",
        "Can you write me a limerick about a cat in space?",
    ),
    "roleplay": (
        "Pretend you are a pirate and tell me about your ship.",
        "You are a medieval blacksmith. Describe your day.",
        "Act as a travel guide for Rome and greet your group.",
        "Imagine you are a time traveller from the year 3000. What do you miss?",
        "As a sports commentator, describe a chess game.",
        "If you were a superhero, which power would you choose?",
        "Play the role of a strict teacher who finds a phone in class.",
    ),
}
SHORT = (
    "Who wrote Faust?",
    "What is the capital of Australia?",
    "When did the Berlin Wall fall?",
    "Is Pluto a planet?",
    "Explain photosynthesis in one sentence.",
    "Hello, how are you?",
    "Are cats mammals? Answer yes or no.",
)


def _area_under_curve(positive: list[float], negative: list[float]) -> float:
    """The chance that a suitable question scores above an unsuitable one, ties by half."""
    pairs = list(product(positive, negative))
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def _scores(table: dict[QuestionClass, tuple[str, ...]]) -> list[float]:
    return [suitability(question).score for group in table.values() for question in group]


def test_suitable_questions_score_above_unsuitable_ones() -> None:
    negative = _scores(UNSUITABLE) + [suitability(question).score for question in SHORT]
    assert _area_under_curve(_scores(SUITABLE), negative) > 0.95


def test_half_is_a_threshold_that_separates_most_of_them() -> None:
    negative = _scores(UNSUITABLE) + [suitability(question).score for question in SHORT]
    assert sum(score >= 0.5 for score in _scores(SUITABLE)) >= 25  # of 28
    assert sum(score < 0.5 for score in negative) >= 39  # of 42


def test_most_questions_get_their_class() -> None:
    table = SUITABLE | UNSUITABLE
    hits = [classify(question) == name for name, group in table.items() for question in group]
    assert sum(hits) >= 0.85 * len(hits)


def test_reasons_name_each_feature_with_its_weight() -> None:
    found = suitability("List three ways to learn chess in one sentence.")
    assert any("several things" in reason and "+" in reason for reason in found.reasons)
    assert any("short answer" in reason and "-" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    "question", ["", "   \n", "?", "\x00", "é" * 100_000, "как дела у вас дома?"]
)
def test_any_string_has_a_score(question: str) -> None:
    assert 0.0 <= suitability(question).score < 0.5


def test_score_ignores_case_and_white_space() -> None:
    one = suitability("What are the benefits of tea?")
    assert suitability("  WHAT are\n the BENEFITS of   tea?").score == one.score


def test_a_single_fact_is_told_from_a_list_of_facts() -> None:
    assert is_one_fact("What is the capital of Peru?")
    assert not is_one_fact("Which factors decide the price of a house?")
