"""The merger against the answer written down at once, over any order of arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.messages import Segment
from picert.pice.merge import Merger


def _merger(*titles: str) -> Merger:
    merger = Merger()
    for index, title in enumerate(titles):
        merger.add_segment(Segment(index, title))
    return merger


def test_first_heading_is_released_the_moment_it_is_known() -> None:
    assert Merger().add_segment(Segment(0, "Sleep")) == "1. **Sleep**"


def test_details_of_a_point_stand_in_its_heading() -> None:
    merger = Merger()
    assert merger.add_segment(Segment(0, "Sleep: eight hours")) == "1. **Sleep – eight hours**"
    assert merger.add_text(0, "It heals.") == ": It heals."


def test_text_of_the_front_segment_streams_and_later_text_waits() -> None:
    merger = _merger("Sleep", "Food")
    assert merger.add_text(1, "Eat fruit.") == ""
    assert merger.add_text(0, "Rest") == ": Rest"
    assert merger.add_text(0, " well.") == " well."
    assert merger.finish(0) == "\n\n2. **Food**: Eat fruit."


def test_finishing_the_front_releases_all_that_is_complete_behind_it() -> None:
    merger = _merger("A", "B", "C", "D")
    for index in (1, 2):
        merger.add_text(index, f"Text {index}.")
        merger.finish(index)
    assert merger.finish(0) == "\n\n2. **B**: Text 1.\n\n3. **C**: Text 2.\n\n4. **D**"


def test_a_segment_added_behind_finished_ones_shows_its_heading() -> None:
    merger = _merger("A")
    merger.finish(0)
    assert merger.add_segment(Segment(1, "B")) == "\n\n2. **B**"


def test_heading_that_is_being_written_is_released_as_far_as_it_is_settled() -> None:
    merger = Merger()
    assert merger.begin_segment("") == ""
    assert merger.begin_segment("Sleep") == "1. **Sleep"
    assert merger.has_begun_next
    assert merger.begin_segment("Sleep: eight") == " – eight"
    assert merger.add_segment(Segment(0, "Sleep: eight hours")) == " hours**"
    assert not merger.has_begun_next


def test_heading_that_is_being_written_waits_for_what_is_before_it() -> None:
    merger = _merger("Sleep")
    assert merger.begin_segment("Regular") == ""
    assert not merger.has_begun_next
    assert merger.finish(0) == "\n\n2. **Regular"
    assert merger.add_segment(Segment(1, "Regular meals")) == " meals**"


def test_sketch_cannot_end_before_a_heading_that_was_begun() -> None:
    merger = Merger()
    merger.begin_segment("Sleep")
    with pytest.raises(ValueError, match="was begun"):
        merger.close_sketch()


def test_heading_that_never_came_is_not_shown_after_the_sketch() -> None:
    merger = _merger("Sleep")
    merger.begin_segment("Regular")
    merger.close_sketch()
    assert merger.finish(0) == ""
    assert merger.is_complete


def test_complete_needs_a_closed_sketch_and_all_texts() -> None:
    merger = _merger("A")
    merger.close_sketch()
    assert not merger.is_complete
    merger.finish(0)
    assert merger.is_complete


def test_written_is_what_a_new_attempt_continues() -> None:
    merger = _merger("A", "B")
    merger.add_text(0, "One.")
    merger.add_text(1, "Two.")
    assert merger.written(0) == "One."
    assert merger.written(1) == ""


def test_discard_forgets_only_what_nobody_saw() -> None:
    merger = _merger("A", "B")
    merger.add_text(0, "Seen.")
    merger.add_text(1, "Unseen.")
    merger.discard(0)
    merger.discard(1)
    merger.add_text(0, " More.")
    merger.add_text(1, "New.")
    assert merger.finish(0) + merger.finish(1) == "\n\n2. **B**: New."
    assert merger.answer == "1. **A**: Seen. More.\n\n2. **B**: New."


def test_misuse_is_refused() -> None:
    merger = _merger("A")
    with pytest.raises(ValueError, match="1 is next"):
        merger.add_segment(Segment(2, "C"))
    with pytest.raises(ValueError, match="not of this sketch"):
        merger.add_text(-1, "x")
    merger.finish(0)
    with pytest.raises(ValueError, match="finished"):
        merger.finish(0)
    with pytest.raises(ValueError, match="finished"):
        merger.add_text(0, "late")
    merger.close_sketch()
    with pytest.raises(ValueError, match="closed"):
        merger.add_segment(Segment(1, "B"))


def _expected(titles: list[str], texts: list[list[str]]) -> str:
    lines = []
    for number, (title, pieces) in enumerate(zip(titles, texts, strict=True), start=1):
        text = "".join(pieces)
        lines.append(f"{number}. **{title}**" + (f": {text}" if text else ""))
    return "\n\n".join(lines)


@given(st.data())
def test_any_order_of_arrival_gives_the_same_answer(data: st.DataObject) -> None:
    num_segments = data.draw(st.integers(1, 5))
    pieces = st.lists(st.sampled_from(["a", "Bc.", " d", "\n", ""]), max_size=4)
    texts = data.draw(st.lists(pieces, min_size=num_segments, max_size=num_segments))
    titles = [f"Title {n}" for n in range(num_segments)]
    merger, released, num_added, begun = Merger(), "", 0, ""
    waiting = [[*segment_pieces, None] for segment_pieces in texts]  # None: finish
    while num_added < num_segments or any(waiting):
        ready = [index for index in range(num_added) if waiting[index]]
        if num_added < num_segments and data.draw(st.booleans()):
            num_chars = data.draw(st.integers(0, len(titles[num_added])))
            begun = max(begun, titles[num_added][:num_chars], key=len)
            released += merger.begin_segment(begun)
        elif num_added < num_segments and (not ready or data.draw(st.booleans())):
            begun = ""
            released += merger.add_segment(Segment(num_added, titles[num_added]))
            num_added += 1
        else:
            index = data.draw(st.sampled_from(ready))
            piece = waiting[index].pop(0)
            released += merger.finish(index) if piece is None else merger.add_text(index, piece)
        assert merger.answer == released
        assert _expected(titles, texts).startswith(released)
    released += merger.close_sketch()
    assert merger.is_complete
    assert released == _expected(titles, texts)


def test_front_is_the_first_segment_that_is_not_finished() -> None:
    merger = Merger()
    for index in range(3):
        merger.add_segment(Segment(index, f"Point {index}"))
    assert merger.front == 0
    merger.finish(1)
    assert merger.front == 0
    merger.finish(0)
    assert merger.front == 2
