"""The judge's rules, with a model whose opinions are written here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import httpx
import pytest
from pice.judge import A_B, YES_NO, Judge, Labels
from pice.questions import Question
from pice.scorers import HttpScorer

from picert.messages import ChatMessage

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
    first, second = (len(set(REFERENCE.split()) & set(t.split())) for t in answers_of(prompt))
    return 0.5 + 0.1 * ((first > second) - (first < second))


def by_length(prompt: str) -> float:
    first, second = answers_of(prompt)
    return 0.5 + 0.1 * ((len(first) > len(second)) - (len(first) < len(second)))


def names_it(prompt: str) -> float:
    answer, _, rest = prompt.partition("Answer:\n")[2].partition("\n\nIs this true of the answer? ")
    wanted = rest.partition(".")[0].split()[-1]
    return 0.9 if wanted in answer.lower() else 0.2


def always_a(_: str) -> float:
    return 0.9


def test_checklist_is_the_mean_probability_of_yes() -> None:
    graded = Judge(FakeScorer(names_it, always_a)).grade(QUESTION, "You should walk.")
    assert graded is not None
    assert graded.score == pytest.approx(100 * (0.9 + 0.2) / 2)
    assert (graded.share_yes, graded.num_unclear) == (50.0, 0)


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
    assert scorer.num_asked == len(QUESTION.checks) + 2


def test_good_judge_passes_the_self_test() -> None:
    test = Judge(FakeScorer(names_it, by_content)).self_test([QUESTION])
    assert test.reasons == []
    assert (test.num_pairs, test.truncated_losses, test.padded_not_wins) == (1, 1, 1)


def test_judge_that_likes_length_fails_the_self_test_and_says_at_what() -> None:
    test = Judge(FakeScorer(lambda _: 0.5, by_length)).self_test([QUESTION])
    assert test.reasons == [
        "1 padded answers win",
        "whole references score no higher than truncated ones",
    ]


def test_self_test_needs_references() -> None:
    test = Judge(FakeScorer(names_it, always_a)).self_test([])
    assert "no question with a reference" in test.reasons[0]


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
