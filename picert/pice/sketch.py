"""Sketch text -> Segments, line by line as it is written; tolerant of what models really write."""

from __future__ import annotations

from picert.messages import Segment


class SketchParser:
    """Incremental parser of one sketch. Never raises, whatever the text; holds one line and `max_segments` points.

    The result does not depend on how the text is cut into pieces. Lines that repeat an earlier one, or that only
    restate `question`, are dropped.
    """

    def __init__(self, max_segments: int, question: str = "") -> None:
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """Nothing more will come: `max_segments` reached, the model ended its turn in text, or `finish` was called."""
        raise NotImplementedError

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments found so far."""
        raise NotImplementedError

    def push(self, text: str) -> list[Segment]:
        """Take more sketch text (the prefill "1." first); return the segments that it completed."""
        raise NotImplementedError

    def finish(self, *, cut: bool = False) -> list[Segment]:
        """The sketch is over. The last line counts, unless the budget `cut` it short."""
        raise NotImplementedError


def split_point(text: str) -> tuple[str, str]:
    """A segment's title and detail: `"Sleep: 7 to 9 hours"` -> `("Sleep", "7 to 9 hours")`; no detail is ""."""
    raise NotImplementedError
