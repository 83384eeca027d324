"""Shaping of expansions: what is shown is whole, is new, and does not depend on the pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.pice.shaping import MAX_SENTENCE_CHARS, ExpansionShaper, whole_sentences


def _shape(text: str, heading: str = "Sleep", written: str = "", *, cut: bool = False) -> str:
    shaper = ExpansionShaper(heading, written)
    shown = shaper.push(text) + shaper.finish(cut=cut)
    assert shaper.text == shown
    assert shaper.is_over
    return shown


def test_a_sentence_is_shown_when_it_is_complete() -> None:
    shaper = ExpansionShaper("Sleep")
    assert shaper.push(" Rest heals") == ""
    assert shaper.push(" the body.") == ""
    assert shaper.push(" It als") == "Rest heals the body."
    assert shaper.finish(cut=True) == ""
    assert shaper.text == "Rest heals the body."


def test_a_text_that_ended_by_itself_is_shown_whole() -> None:
    assert _shape(" rest heals. It calms") == "Rest heals. It calms."


@pytest.mark.parametrize(
    "text",
    [
        "**Sleep**: Rest heals the body.",
        "Sleep: rest heals the body.",
        "1. **Sleep:** Rest heals the body.",
        "- Sleep - rest heals the body.",
        "## Sleep: Rest heals the body.",
        "Sleep.\n\nRest heals the body.",
        "  rest heals\tthe\nbody.",
        "Rest heals the body. For example:",
        "Rest heals the body.<|im_end|>\n<|im_start|>user More? Yes.",
        "Rest heals the body. Rest heals the body! Rest heals the body.",
    ],
)  # fmt: skip
def test_forms_that_models_write(text: str) -> None:
    assert _shape(text) == "Rest heals the body."


def test_a_cut_text_ends_at_its_last_sentence() -> None:
    assert _shape("Rest heals. It also help", cut=True) == "Rest heals."


def test_a_single_cut_sentence_ends_at_its_last_clause() -> None:
    text = "Rest heals the tired body, it calms the mind, and it makes peo"
    assert _shape(text, cut=True) == "Rest heals the tired body, it calms the mind …"
    assert _shape("Rest heals the tired bo", cut=True) == "Rest heals the tired …"


@pytest.mark.parametrize(
    "sentence", ["Take 3.5 hours off.", "Ask Dr. Low, e.g. by mail.", "Use vs. 2. Both help."]
)
def test_a_point_inside_a_sentence_does_not_end_it(sentence: str) -> None:
    shaper = ExpansionShaper("Heading")
    pieces = [piece for char in sentence + " Next" if (piece := shaper.push(char))]
    assert pieces[0].endswith(".")
    assert "".join(pieces) == sentence


def test_scripts_without_spaces_are_cut_into_sentences_too() -> None:
    assert _shape("睡眠很重要。它使身体恢复。还有", cut=True) == "睡眠很重要。它使身体恢复。"


def test_a_loop_is_shown_once_and_ends_the_text() -> None:
    shaper = ExpansionShaper("Sleep")
    shown = shaper.push("Rest heals the body. Food is fine. Rest heals the body. New thing here. ")
    assert shown == "Rest heals the body. Food is fine."
    assert shaper.is_over
    assert shaper.push("More.") + shaper.finish(cut=False) == ""


def test_a_sentence_that_goes_round_in_itself_is_not_shown() -> None:
    assert _shape("It is good and it is good and it is good and it is good and so") == ""


def test_a_text_that_only_restates_its_heading_is_empty() -> None:
    assert _shape("Sleep. Sleep. Sleep. Sleep.") == ""


def test_a_sentence_without_end_is_not_waited_for() -> None:
    shaper = ExpansionShaper("Sleep")
    assert shaper.push("no end " * MAX_SENTENCE_CHARS) == ""
    assert shaper.is_over


def test_a_new_attempt_continues_what_was_shown_and_does_not_repeat_it() -> None:
    assert _shape(" It calms. Rest", written="Rest heals.", cut=True) == " It calms."
    assert _shape("Rest heals. It calms.", written="Rest heals.") == ""
    assert _shape("它使身体恢复。", written="睡眠很重要。") == "它使身体恢复。"


def test_bold_that_could_stay_open_is_removed() -> None:
    assert _shape("Rest **heals. Really** it does. Yes", cut=True) == "Rest heals. Really it does."


_PIECES = st.sampled_from(
    [
        *(
            "Rest heals. ",
            "It calms! ",
            "and so on ",
            ".",
            "?",
            "\n",
            " ",
            "e.g. ",
            "3.",
            "**",
            ":",
        ),
        *("<|im_end|>", "。", "”", "睡眠", "Sleep: ", "- ", "word " * 30, "x" * 300),
    ]
)
_TEXTS = st.one_of(st.text(max_size=300), st.lists(_PIECES, max_size=40).map("".join))


@given(_TEXTS, st.lists(st.integers(0, 600), max_size=12), st.booleans())
def test_result_does_not_depend_on_how_the_text_is_cut(
    text: str, cuts: list[int], was_cut: bool
) -> None:
    expected = _shape(text, cut=was_cut)
    shaper = ExpansionShaper("Sleep")
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(shaper.push(text[a:b]) for a, b in pairwise(edges))
    assert expected.startswith(shown)
    assert shown + shaper.finish(cut=was_cut) == expected


@given(_TEXTS, st.booleans())
def test_what_is_shown_is_clean(text: str, was_cut: bool) -> None:
    shown = _shape(text, cut=was_cut)
    assert shown == shown.strip()
    assert "\n" not in shown
    assert "**" not in shown
    assert "<|im_end|>" not in shown


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Walk daily. Then re", "Walk daily."),
        ("Walk daily. Rest.", "Walk daily. Rest."),
        ("Ask Dr. Smith", ""),
        ("毎日歩く。それから", "毎日歩く。"),
        ("", ""),
    ],
)
def test_of_a_cut_text_the_whole_sentences_are_kept(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole
