"""Segments and their texts, in any order -> one answer, in order, released as early as possible.

The answer is a numbered list: `1. **Title**: text`, or `1. **Title**: Detail. text` where the sketch line has
details. A heading is answer text as soon as it is known and everything before it is finished. What has been
released is never changed; all of it, joined, is the answer.
"""

from __future__ import annotations

from picert.messages import Segment


class Merger:
    """The one writer of an answer. Each method that adds returns the text released by it, often "".

    Raises ValueError for a segment that was not added, or that is added or finished twice or out of order.
    """

    def __init__(self) -> None:
        raise NotImplementedError

    @property
    def answer(self) -> str:
        """All text released so far."""
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """The sketch is closed and all its segments are finished, so `answer` is final."""
        raise NotImplementedError

    def add_segment(self, segment: Segment) -> str:
        """The next segment of the sketch is known."""
        raise NotImplementedError

    def add_text(self, index: int, text: str) -> str:
        """More (shaped) text of a segment."""
        raise NotImplementedError

    def finish(self, index: int) -> str:
        """A segment's text is complete."""
        raise NotImplementedError

    def close_sketch(self) -> str:
        """No more segments will be added."""
        raise NotImplementedError

    def written(self, index: int) -> str:
        """Text of a segment that has been released, without its heading: what a new attempt has to continue."""
        raise NotImplementedError

    def discard(self, index: int) -> None:
        """Forget what was added to a segment and not released: its attempt failed, another will write it."""
        raise NotImplementedError
