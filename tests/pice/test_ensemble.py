import math

import msgspec
import pytest

from picert.config import PolicyConfig
from picert.messages import Calibration, Expansion, Segment
from picert.pice.ensemble import (
    Calibrations,
    Choice,
    Context,
    Judge,
    Weights,
    among,
    confidence,
    vetoes,
)

SEGMENT = Segment(1, "Regular exercise")
CONTEXT = Context(
    question="What are the most effective ways to deal with stress at work?",
    outline=("Enough sleep", "Regular exercise", "Talks with friends"),
    others=("Seven to nine hours a night restore the body and lower cortisol levels.",),
)
GOOD = "A brisk walk of thirty minutes lowers cortisol and lifts the mood for hours."


def _expansion(text: str, logprob: float = -0.5, model: str = "m") -> Expansion:
    return Expansion(
        request_id="r",
        index=1,
        attempt=0,
        text=text,
        finish_reason="stop",
        model=model,
        prompt_tokens=10,
        cached_tokens=0,
        completion_tokens=20,
        mean_logprob=logprob,
        seconds=1.0,
    )


def choose(
    candidates: list[Expansion], segment: Segment, context: Context, floor: float = 0.0
) -> Choice:
    return Judge(Weights(), floor, Calibrations()).choose(candidates, segment, context)


def test_good_text_has_no_veto() -> None:
    assert vetoes(GOOD, SEGMENT, CONTEXT) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" ... \n", "is empty"),
        ("Yes, indeed.", "is hardly a sentence"),
        ("Regular exercise is what it is: regular exercise.", "adds nothing to its heading"),
        ("Walks are good for us, walks are good for us, walks are good for us.", "repeats itself"),
        ("Seven to nine hours a night restore the body.", "repeats another segment"),
        ("First enough sleep, then exercise, then talks with friends.", "restates the sketch"),
        ("What are the most effective ways to deal with stress at work?", "contains the question"),
        (GOOD + "<|im_end|>", "contains a chat marker"),
    ],
)  # fmt: skip
def test_garbage_has_a_veto(text: str, reason: str) -> None:
    assert reason in vetoes(text, SEGMENT, CONTEXT)


def test_naming_one_other_point_is_no_veto() -> None:
    text = (
        "A brisk walk lowers cortisol, and enough sleep the night before makes it easier to start."
    )
    assert vetoes(text, SEGMENT, CONTEXT) == ()


def test_text_in_another_script_is_judged_by_its_characters() -> None:
    segment = Segment(0, "规律运动")
    context = Context("如何缓解压力?", ("规律运动",))
    assert vetoes("每天散步三十分钟可以降低皮质醇。", segment, context) == ()
    assert "repeats itself" in vetoes("运动好运动好运动好运动好运动好", segment, context)


def test_the_candidate_that_covers_its_segment_is_chosen() -> None:
    better = _expansion("Regular exercise such as a brisk walk lowers cortisol levels a lot.")
    other = _expansion(GOOD, model="other")
    chosen = choose([other, better], SEGMENT, CONTEXT)
    assert chosen.expansion is better
    assert chosen.confidence == confidence(better, SEGMENT, [other])


def test_text_of_the_prompts_own_examples_has_a_veto() -> None:
    context = Context(
        CONTEXT.question,
        CONTEXT.outline,
        rules=("A stamp for each purchase gives people a reason to come back.",),
    )
    text = "Exercise: a stamp for each purchase gives people a reason to return for more."
    assert vetoes(text, SEGMENT, context) == ("contains prompt text",)


def test_a_text_that_its_budget_cut_inside_a_word_is_never_chosen() -> None:
    cut = msgspec.structs.replace(_expansion(GOOD[:-3]), finish_reason="length")
    assert choose([cut], SEGMENT, CONTEXT).reasons == ("the text of m is cut mid-word",)
    whole = msgspec.structs.replace(_expansion(GOOD), finish_reason="length")
    assert choose([whole], SEGMENT, CONTEXT).expansion is whole


def test_the_candidate_that_agrees_with_the_others_is_chosen() -> None:
    walk = _expansion("A brisk walk of half an hour lowers cortisol and lifts the mood at once.")
    astray = _expansion("The stock market fell by nine percent after the election in the north.")
    chosen = choose([astray, walk, _expansion(GOOD)], SEGMENT, CONTEXT)
    assert chosen.expansion is not None
    assert chosen.expansion is not astray


def test_under_the_floor_nothing_is_chosen_but_the_best_is_named() -> None:
    chosen = choose([_expansion(GOOD)], SEGMENT, CONTEXT, floor=0.99)
    assert chosen.expansion is None
    assert chosen.best is not None
    assert "is under 0.99" in chosen.reasons[-1]


def test_the_longest_of_vetoed_candidates_is_the_best_there_is() -> None:
    short, long = _expansion("Yes, indeed."), _expansion("Regular exercise is regular exercise.")
    assert choose([short, long], SEGMENT, CONTEXT).best is long
    assert choose([_expansion("")], SEGMENT, CONTEXT).best is None


def test_probabilities_count_as_deviations_from_what_is_usual_for_the_model() -> None:
    known = Calibrations()
    known.set("small", Calibration(mean=-1.5, std=0.5))
    known.set("large", Calibration(mean=-0.5, std=0.25))
    assert known.z("small", -1.0) == known.z("large", -0.25) == 1.0
    assert known.z("small", -99.0) == -2.0
    assert known.z("unknown", -1.0) == 0.0
    assert known.z("small", math.nan) == 0.0
    first = confidence(_expansion(GOOD, -1.0, "small"), SEGMENT, calibrations=known)
    assert first > confidence(_expansion(GOOD, -1.0, "large"), SEGMENT, calibrations=known)


def test_a_model_that_nobody_measured_is_calibrated_by_its_own_texts() -> None:
    known = Calibrations()
    for n in range(8):
        assert known.z("m", -2.0) == 0.0
        known.observe("m", -2.0 if n % 2 else -1.0)
    for wrong in (math.nan, -math.inf, 1.0):
        known.observe("m", wrong)
    assert known.z("m", -1.0) == pytest.approx(1.0)
    assert known.z("m", -2.0) == pytest.approx(-1.0)


@pytest.mark.parametrize("term", ["w_logprob", "w_coverage", "w_length", "w_consensus"])
def test_each_term_can_be_taken_out(term: str) -> None:
    weights = Weights.of(PolicyConfig(**{term: 0.0}))
    known = Calibrations()
    known.set("m", Calibration(mean=-2.0, std=0.5))
    good = _expansion(f"Exercise: {GOOD}")
    other = _expansion("A walk, nothing of the sort was ever said by anyone here.")
    assert confidence(good, SEGMENT, [other], known, weights) != pytest.approx(
        confidence(good, SEGMENT, [other], known)
    )


def test_a_candidate_with_a_veto_is_never_chosen() -> None:
    chosen = choose([_expansion("", -0.01, "bad"), _expansion(GOOD, -5.0)], SEGMENT, CONTEXT)
    assert chosen.expansion is not None
    assert chosen.expansion.text == GOOD
    assert "the text of bad is empty" in chosen.reasons


def test_no_candidate_left_gives_none_with_the_reasons() -> None:
    chosen = choose([_expansion("")], SEGMENT, CONTEXT)
    assert chosen.expansion is None
    assert chosen.reasons == ("the text of m is empty",)
    assert choose([], SEGMENT, CONTEXT).reasons == ("there is no candidate",)


def test_confidence_rises_with_coverage_and_fit_and_keeps_its_range() -> None:
    base = _expansion(GOOD)
    named = msgspec.structs.replace(base, text="Regular exercise. " + GOOD)
    assert confidence(named, SEGMENT) > confidence(base, SEGMENT)
    endless = msgspec.structs.replace(base, text=GOOD * 20)
    assert confidence(endless, SEGMENT) < confidence(base, SEGMENT)
    weights = Weights(9.0, 9.0, 9.0, 9.0)
    assert 0.0 <= confidence(base, SEGMENT, [base], weights=weights) <= 1.0


ALIKE = (
    "A brisk walk of thirty minutes lowers cortisol and lifts the mood for hours.",
    "A brisk walk of thirty minutes lowers cortisol and lifts the mood for days.",
)


def checked(opinions: dict[int, float], weight: float = 0.1, floor: float = 0.0) -> Choice:
    """Of the first of ALIKE twice, in attempts 0 and 1, and the second one, in attempt 2."""
    texts = (ALIKE[0], ALIKE[0], ALIKE[1])
    candidates = [
        msgspec.structs.replace(_expansion(text), attempt=n) for n, text in enumerate(texts)
    ]
    judge = Judge(Weights(check=weight), floor, Calibrations())
    return judge.choose(candidates, SEGMENT, CONTEXT, opinions)


def attempt_of(choice: Choice) -> int:
    assert choice.best is not None
    return choice.best.attempt


def test_the_clouds_opinion_decides_among_candidates_alike() -> None:
    assert attempt_of(checked({})) == 0
    assert attempt_of(checked({0: -2.0, 1: -1.0, 2: -2.0})) == 1
    assert attempt_of(checked({0: -2.0, 1: -2.0, 2: -0.5})) == 2
    assert attempt_of(checked({0: -2.0, 1: -1.0, 2: -2.0}, weight=0.0)) == 0


def test_an_opinion_says_nothing_where_another_is_missing() -> None:
    assert checked({1: -0.1, 2: -0.1}) == checked({})


def test_an_opinion_tells_which_is_better_and_not_how_good_it_is() -> None:
    plain = checked({}, floor=0.99)
    liked = checked({0: -9.0, 1: -0.1, 2: -9.0}, weight=9.0, floor=0.99)
    assert (plain.expansion, liked.expansion) == (None, None)
    assert liked.confidence == pytest.approx(plain.confidence, abs=0.1)
    assert attempt_of(liked) == 1


def test_however_it_is_liked_a_text_under_the_floor_stands_behind_one_above_it() -> None:
    named = _expansion("Regular exercise such as a brisk walk lowers cortisol levels a lot.")
    poor = msgspec.structs.replace(_expansion(GOOD), attempt=1)
    judge = Judge(Weights(check=9.0), 0.5, Calibrations())
    assert confidence(poor, SEGMENT, [named]) < 0.5 < confidence(named, SEGMENT, [poor])
    chosen = judge.choose([named, poor], SEGMENT, CONTEXT, {0: -9.0, 1: -0.1})
    assert chosen.expansion is named


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_opinions_are_set_against_each_other(shift: float) -> None:
    far = among([-1.0 + shift, -2.0 + shift, -3.0 + shift])
    assert far == pytest.approx([1.2247, 0.0, -1.2247], abs=1e-3)
    near = among([-1.0 + shift, -1.02 + shift])
    assert near == pytest.approx([0.05, -0.05])
    assert among([-1.0]) == [0.0]
