import msgspec
import pytest

from picert.messages import Expansion, Segment
from picert.pice.ensemble import Context, choose, confidence, vetoes

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


def test_the_surest_candidate_that_covers_its_segment_is_chosen() -> None:
    better = _expansion("Regular exercise such as a brisk walk lowers cortisol levels a lot.", -0.3)
    chosen = choose([_expansion(GOOD, -2.0, "other"), better], SEGMENT, CONTEXT)
    assert chosen.expansion is better
    assert chosen.confidence == confidence(better, SEGMENT)


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


def test_confidence_rises_with_probability_coverage_and_fit() -> None:
    base = _expansion(GOOD)
    assert confidence(msgspec.structs.replace(base, mean_logprob=-0.1), SEGMENT) > confidence(
        base, SEGMENT
    )
    assert confidence(
        msgspec.structs.replace(base, text="Regular exercise. " + GOOD), SEGMENT
    ) > confidence(base, SEGMENT)
    assert confidence(msgspec.structs.replace(base, text=GOOD * 20), SEGMENT) < confidence(
        base, SEGMENT
    )
    assert 0.0 <= confidence(msgspec.structs.replace(base, mean_logprob=3.0), SEGMENT) <= 1.0
