"""The judge's rules, with a model whose opinions are written here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import httpx
import pytest
from pice.judge import A_B, YES_NO, Judge, Labels
from pice.scorers import HttpScorer
from pice.self_test import tried_comparing, tried_grading

from picert.messages import ChatMessage
from picert.simulate.questions import Question

REFERENCE = (
    "Walk for half an hour each day, best in the morning light. Sleep eight hours and keep to the "
    "same time at weekends. Drink water with every meal instead of juice, cook fresh food twice, "
    "call old friends on Sundays, and see your doctor once a year."
)
QUESTION = Question(
    id="q",
    question_class="generic",
    question="How does one stay well?",
    reference=REFERENCE,
    checks=("The answer says walk.", "The answer says friends."),
)
OTHER = Question(
    id="p",
    question_class="generic",
    question="How does one keep a garden?",
    reference=(
        "Dig compost into the soil in spring, sow after the last frost and water in the evening. "
        "Pull weeds while they are young, tie tomatoes to stakes, rotate the beds every year and "
        "leave some nettles for butterflies, who visit flowers of all kinds from June on."
    ),
    checks=("The answer says compost.", "The answer says butterflies."),
)
Opinion = Callable[[str], float]  # of a prompt: the probability of the first label


class FakeScorer:
    """Answers by rule, and counts what it was asked."""

    def __init__(self, says_yes: Opinion, prefers_a: Opinion) -> None:
        self._rules = {YES_NO: says_yes, A_B: prefers_a}
        self.num_asked = 0

    def odds(
        self, chats: Sequence[Sequence[ChatMessage]], labels: Labels
    ) -> list[tuple[float, float] | None]:
        self.num_asked += len(chats)
        shares = [self._rules[labels](chat[-1].content) for chat in chats]
        return [None if math.isnan(p) else (0.8 * p, 0.8 * (1 - p)) for p in shares]


def answers_of(prompt: str) -> tuple[str, str]:
    first, _, rest = prompt.partition("[Answer A]\n")[2].partition("\n[End of answer A]")
    return first, rest.partition("[Answer B]\n")[2].partition("\n[End of answer B]")[0]


def by_content(prompt: str) -> float:
    """A good judge: more of the content counts, repetition and phrases do not."""
    reference = str((OTHER if OTHER.question in prompt else QUESTION).reference)
    first, second = (len({*reference.split()} & {*t.split()}) for t in answers_of(prompt))
    return 0.5 + 0.1 * ((first > second) - (first < second))


def by_length(prompt: str) -> float:
    first, second = answers_of(prompt)
    return 0.5 + 0.1 * ((len(first) > len(second)) - (len(first) < len(second)))


def names_it(prompt: str) -> float:
    answer, _, rest = prompt.partition("Answer:\n")[2].partition("\n\nIs this true of the answer? ")
    wanted = rest.partition(".")[0].split()[-1]
    return 0.9 if wanted in answer.lower() else 0.05


def always_a(_: str) -> float:
    return 0.9


def test_checklist_is_the_mean_probability_of_yes_beyond_that_of_no_answer() -> None:
    graded = Judge(FakeScorer(names_it, always_a)).grade(QUESTION, "You should walk.")
    assert graded is not None
    assert graded.raw == pytest.approx(100 * (0.9 + 0.05) / 2)
    assert graded.score == pytest.approx(100 * (0.9 - 0.05) / (1 - 0.05) / 2)
    assert (graded.share_yes, graded.num_unclear) == (50.0, 0)


@pytest.mark.parametrize(("says", "points"), [(1.0, 100.0), (0.6, 20.0), (0.5, 0.0), (0.2, 0.0)])
def test_what_a_judge_says_of_no_answer_is_its_zero(says: float, points: float) -> None:
    opinion = FakeScorer(lambda prompt: 0.5 if "(empty)" in prompt else says, always_a)
    graded = Judge(opinion).grade(QUESTION, "Walk.")
    assert graded is not None
    assert graded.score == pytest.approx(points)


def test_check_that_the_judge_does_not_answer_counts_as_no_and_is_told() -> None:
    graded = Judge(FakeScorer(lambda _: math.nan, always_a)).grade(QUESTION, "Walk.")
    assert graded is not None
    assert (graded.score, graded.num_unclear) == (0.0, 2)


def test_question_without_checks_has_no_score() -> None:
    bare = Question(id="q", question_class="math", question="1 + 1?")
    assert Judge(FakeScorer(names_it, always_a)).grade(bare, "2") is None


@pytest.mark.parametrize(
    ("answer", "other", "verdict"),
    [("sleep and cook", "sleep", "win"), ("sleep", "sleep and cook", "loss"), ("x", "x", "tie")],
)
def test_both_orders_decide(answer: str, other: str, verdict: str) -> None:
    compared = Judge(FakeScorer(names_it, by_content)).compare(QUESTION, answer, other)
    assert compared.verdict == verdict
    assert compared.is_consistent == (verdict != "tie")


def test_judge_that_prefers_a_place_decides_nothing() -> None:
    compared = Judge(FakeScorer(names_it, always_a)).compare(QUESTION, "walk and sleep", "walk")
    assert (compared.verdict, compared.is_consistent) == ("tie", False)


def test_judge_without_an_opinion_ties() -> None:
    judge = Judge(FakeScorer(names_it, lambda _: math.nan))
    assert judge.compare(QUESTION, "a", "b").verdict == "tie"


def test_same_answer_is_judged_once() -> None:
    scorer = FakeScorer(names_it, by_content)
    judge = Judge(scorer)
    for _ in range(2):
        judge.grade(QUESTION, "walk")
        judge.compare(QUESTION, "walk", "sleep")
    assert scorer.num_asked == 2 * len(QUESTION.checks) + 2  # no answer, this one, two orders


def test_checks_of_many_answers_are_one_batch() -> None:
    scorer = FakeScorer(names_it, always_a)
    grades = Judge(scorer).grade_all([(QUESTION, "walk"), (OTHER, "walk"), (QUESTION, "walk")])
    assert [grade.share_yes for grade in grades if grade] == [50.0, 0.0, 50.0]
    assert scorer.num_asked == 8  # with no answer to either question


def test_judge_knows_how_long_it_grades() -> None:
    times = iter([0.0, 6.0, 10.0, 13.0])
    judge = Judge(FakeScorer(names_it, always_a), lambda: next(times))
    judge.grade_all([(QUESTION, "walk"), (OTHER, "walk")])
    judge.grade(QUESTION, "sleep")
    assert judge.grade_s == 3.0


def test_good_judge_passes_the_self_test() -> None:
    judge = Judge(FakeScorer(names_it, by_content))
    grading = tried_grading(judge, [QUESTION, OTHER])
    comparing = tried_comparing(judge, [QUESTION, OTHER])
    assert (grading.fails, comparing.fails) == ([], [])
    assert (grading.reference_raw, grading.empty_raw) == (90.0, 5.0)
    assert (grading.reference_score, grading.truncated_lower) == (89.5, 2)
    assert (grading.other_score, grading.again_off) == (0.0, 0.0)
    assert (comparing.truncated_losses, comparing.padded_not_wins) == (2, 2)


def test_judge_that_likes_length_fails_at_comparing_and_says_at_what() -> None:
    judge = Judge(FakeScorer(names_it, by_length))
    assert tried_comparing(judge, [QUESTION, OTHER]).fails == ["2 padded answers win"]


def test_judge_that_always_agrees_fails_at_grading_and_says_at_what() -> None:
    judge = Judge(FakeScorer(lambda _: 0.5, by_content))
    assert tried_grading(judge, [QUESTION, OTHER]).fails == [
        "only 0 of 2 references score higher than cut off",
        "whole references score no higher than truncated ones",
        "references get 50 points where no answer gets 50",
    ]


def test_judge_that_changes_its_mind_fails_at_grading() -> None:
    times = itertools.count()
    scorer = FakeScorer(lambda prompt: max(0.0, names_it(prompt) - 0.01 * next(times)), by_content)
    [reason] = tried_grading(Judge(scorer), [QUESTION, OTHER]).fails
    assert "when graded again" in reason


def test_self_test_needs_references() -> None:
    judge = Judge(FakeScorer(names_it, always_a))
    for test in (tried_grading(judge, []), tried_comparing(judge, [])):
        assert "no question with a reference" in test.fails[0]


def endpoint(body: object) -> HttpScorer:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    return HttpScorer("http://judge/v1/", "m", transport)


def test_endpoint_odds_are_summed_over_spellings() -> None:
    top = [(" Yes", 0.4), ("yes", 0.2), ("No", 0.3), ("Maybe", 0.1)]
    content = [{"top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top]}]
    scorer = endpoint({"choices": [{"logprobs": {"content": content}}]})
    [odds] = scorer.odds([[ChatMessage("user", "?")]], YES_NO)
    scorer.close()
    assert odds == pytest.approx((0.6, 0.3))


def test_endpoint_without_log_probabilities_is_refused_with_a_remedy() -> None:
    scorer = endpoint({"choices": [{"logprobs": None}]})
    with pytest.raises(ValueError, match="supports logprobs"):
        scorer.odds([[ChatMessage("user", "?")]], YES_NO)
    scorer.close()
