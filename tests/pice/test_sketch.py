"""The sketch parser, over what models really write and over anything else."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.pice.sketch import MAX_LINE_CHARS, SketchParser, heading, split_point


def _parse(text: str, max_segments: int = 8, question: str = "", *, cut: bool = False) -> list[str]:
    parser = SketchParser(max_segments, question)
    found = parser.push(text) + parser.finish(cut=cut)
    assert [segment.index for segment in found] == list(range(len(found)))
    assert parser.segments == tuple(found)
    assert parser.is_complete
    return [segment.text for segment in found]


def test_a_segment_is_known_when_its_line_ends() -> None:
    parser = SketchParser(8)
    assert parser.push("1.") == []
    assert parser.push(" Sleep well") == []
    assert [s.text for s in parser.push("\n2. Ea")] == ["Sleep well"]
    assert [s.text for s in parser.push("t well\n")] == ["Eat well"]
    assert not parser.is_complete


@pytest.mark.parametrize(
    "text",
    [
        "1. Sleep\n2. Food\n3. Sport",
        "1) Sleep\n2) Food\n3) Sport",
        "(1) Sleep\n(2) Food\n(3) Sport\n",
        "1: Sleep\n2: Food\n3: Sport",
        "1 - Sleep\n2 - Food\n3 - Sport",
        "- Sleep\n- Food\n- Sport",
        "* Sleep\n* Food\n* Sport",
        "• Sleep\n• Food\n• Sport",
        "1. **Sleep**\n2. **Food**\n3. **Sport**",
        "**1. Sleep**\n**2. Food**\n**3. Sport**",
        "### 1. Sleep\n### 2. Food\n### 3. Sport",
        "1. Sleep.\n\n2. Food;\n\n3. Sport:\n",
        "1. Sleep\r\n2. Food\r\n3. Sport\r\n",
        '1. "Sleep"\n2. `Food`\n3. *Sport*',
        "1. Sleep\n   - eight hours\n   - dark room\n2. Food\n- fruit\n3. Sport",
        "1. Sleep\n   1. eight hours\n2. Food\n    2) fruit\n3. Sport",
        "1. Sleep\n2. Food\n1. Sport",
        "1. Sleep\n4. Food\n9. Sport",
        "1. Sleep\n2. sleep!\n3. Food\n4. SLEEP\n5. Sport",
        "1. Sleep\n2.\n3. ...\n4. Food\n5. **\n6. Sport",
        "Sure, here are some points:\n1. Sleep\n2. Food\n3. Sport\nI hope this helps!",
        "1. Sure, here is the list:\n1. Sleep\n2. Food\n3. Sport",
        "# Outline\n```\n1. Sleep\n2. Food\n3. Sport\n```",
        "1. Sleep\n2. Food\n3. Sport<|im_end|>\n<|im_start|>user\n1. More",
        "1. Sleep\n2. Food\n3. Sport\n<|endoftext|>4. More",
        "  1. Sleep\n  2. Food\n  3. Sport",
        "1.\n- Sleep\n- Food\n- Sport",
    ],
)  # fmt: skip
def test_forms_that_models_write(text: str) -> None:
    assert _parse(text) == ["Sleep", "Food", "Sport"]


def test_points_in_other_scripts() -> None:
    assert _parse("1. 保证充足的睡眠。\n2、规律运动\n3．与朋友交谈") == [
        "保证充足的睡眠",
        "规律运动",
        "与朋友交谈",
    ]


def test_near_duplicates_are_dropped() -> None:
    text = "1. Spend more time with good friends\n2. Spend time with more good friends\n3. Rest"
    assert _parse(text) == ["Spend more time with good friends", "Rest"]


def test_a_line_that_restates_the_question_is_dropped() -> None:
    question = "What are the most effective ways to deal with stress?"
    text = "1. Effective ways to deal with stress\n2. Deal with workload first\n3. Sleep"
    assert _parse(text, question=question) == ["Deal with workload first", "Sleep"]


def test_prose_has_no_points() -> None:
    assert _parse("Stress is common. There are 3 things to do.\nSleep helps. Sport does too.") == []


def test_a_last_line_that_the_budget_cut_is_dropped() -> None:
    assert _parse("1. Sleep\n2. Food\n3. Spo", cut=True) == ["Sleep", "Food"]
    assert _parse("1. Sleep\n2. Food\n3. Spo", cut=False) == ["Sleep", "Food", "Spo"]


def test_a_thousand_lines_stop_at_the_limit() -> None:
    parser = SketchParser(5)
    found = parser.push("".join(f"{n}. point number {n} about thing {n}\n" for n in range(1, 1001)))
    assert len(found) == 5
    assert parser.is_complete
    assert parser.push("6. more\n") + parser.finish() == []


def test_an_endless_line_is_cut_at_the_limit_and_its_rest_ignored() -> None:
    parser = SketchParser(5)
    found = parser.push("1. " + "word" * 2 + " word" * 100_000)
    assert len(found) == 1
    assert len(found[0].text) <= MAX_LINE_CHARS
    assert [s.text for s in parser.push(" word word\n2. Next\n")] == ["Next"]


@pytest.mark.parametrize("max_segments", [0, -1])
def test_no_room_for_segments_is_complete_at_once(max_segments: int) -> None:
    parser = SketchParser(max_segments)
    assert parser.is_complete
    assert parser.push("1. Sleep\n") == []


_PIECES = st.sampled_from(
    [
        *(
            "1.",
            "2)",
            "3.",
            "- ",
            " ",
            "\n",
            "\r\n",
            "\t",
            "**",
            ":",
            "<|im_end|>",
            "```",
            "#",
            "(",
        ),
        *("Sleep", "eat well", "睡眠", "word " * 60, "Sure, here:", "\u2028", "\x00", "é"),
    ]
)
_TEXTS = st.one_of(st.text(max_size=400), st.lists(_PIECES, max_size=60).map("".join))


@given(_TEXTS, st.integers(0, 6), st.lists(st.integers(0, 400), max_size=12))
def test_result_does_not_depend_on_how_the_text_is_cut(
    text: str, max_segments: int, cuts: list[int]
) -> None:
    whole = SketchParser(max_segments)
    expected = whole.push(text) + whole.finish()
    parser = SketchParser(max_segments)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = [s for a, b in pairwise(edges) for s in parser.push(text[a:b])]
    assert found + parser.finish() == expected


_SAID = st.sampled_from(["Sleep more", "how to eat well", "", "睡眠 café", "Of course, sure"])


@given(_TEXTS, st.integers(0, 6), _SAID)
def test_what_is_begun_only_grows_and_becomes_a_segment(
    text: str, max_segments: int, question: str
) -> None:
    parser = SketchParser(max_segments, question)
    begun: dict[int, list[str]] = {}  # by the segment that it is to be
    for char in text:
        parser.push(char)
        if parser.begun:
            begun.setdefault(len(parser.segments), []).append(parser.begun)
    parser.finish()
    for index, texts in begun.items():
        whole = parser.segments[index].text
        assert all(b.startswith(a) for a, b in pairwise([*texts, whole]))
        headings = [heading(text) for text in (*texts, whole)]
        assert all(b.startswith(a) for a, b in pairwise(headings))


@pytest.mark.parametrize(
    ("line", "begun"),
    [
        (" Regular exercise", "Regular exercise"),
        (" Reg", "Reg"),
        (" **Regular", "Regular"),
        (" **Regular*", "Regular"),
        (" Regular: ", "Regular"),
        (' "Regular exercise', ""),
        (" Regular <|im_", "Regular"),
        (" Of", ""),
        (" Here are", ""),
        (" The", ""),
        (" The heart rate", "The heart rate"),
        (" dea", ""),
        (" deal with stress", ""),
        (" deal with stress dail", "deal with stress dail"),
    ],
)
def test_what_might_still_be_dropped_or_changed_is_not_begun(line: str, begun: str) -> None:
    parser = SketchParser(8, "What are the most effective ways to deal with stress?")
    parser.push("1." + line)
    assert parser.begun == begun


def test_a_point_is_begun_when_it_can_no_longer_repeat_an_earlier_one() -> None:
    parser = SketchParser(8)
    parser.push("1. Spend time with friends\n2. Spend time")
    assert parser.begun == ""
    parser.push(" alone ")
    assert parser.begun == ""
    parser.push("outdoors")
    assert parser.begun == "Spend time alone outdoors"


@given(_TEXTS, st.integers(0, 6))
def test_segments_are_few_short_distinct_and_on_one_line(text: str, max_segments: int) -> None:
    found = _parse(text, max_segments)
    assert len(found) <= max_segments
    assert len({point.casefold() for point in found}) == len(found)
    for point in found:
        assert 0 < len(point) <= MAX_LINE_CHARS
        assert point.isprintable()
        assert any(c.isalnum() for c in point)


@pytest.mark.parametrize(
    ("text", "title", "detail"),
    [
        ("Sleep: 7 to 9 hours", "Sleep", "7 to 9 hours"),
        ("Sleep – 7 to 9 hours", "Sleep", "7 to 9 hours"),
        ("Sleep lowers stress", "Sleep lowers stress", ""),
        ("Meet at 10:30 daily", "Meet at 10:30 daily", ""),
        ("Well-known state-of-the-art", "Well-known state-of-the-art", ""),
        ("a b c d e f g h i: detail", "a b c d e f g h i: detail", ""),
        ("", "", ""),
    ],
)
def test_a_point_splits_into_title_and_detail(text: str, title: str, detail: str) -> None:
    assert split_point(text) == (title, detail)


def test_a_heading_joins_title_and_detail_without_a_colon() -> None:
    assert heading("Sleep: 7 to 9 hours") == "Sleep – 7 to 9 hours"
    assert heading("Sleep lowers stress") == "Sleep lowers stress"
