"""Segments and their texts, in any order -> one answer, in order, released as early as possible.

The answer is a numbered list: `1. **Heading**: text`. A heading is answer text as soon as it is
known and everything before it is finished, word by word while its line is written. What has been
released is never changed; all of it, joined, is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from picert.messages import Segment
from picert.pice.sketch import heading


@dataclass(slots=True)
class _Part:
    """One segment of the answer; `text` is what was added, of which `num_released` characters
    have been released."""

    segment: Segment
    text: str = ""
    num_released: int = 0
    is_finished: bool = False


class Merger:
    """The one writer of an answer. Each method that adds returns the text it released, often "".

    Raises ValueError for a segment that was not added, or that is added or finished twice or out
    of order.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._front = 0  # the part whose text is released as it comes
        self._coming = ""  # text of the next segment, as far as it is settled
        self._num_opened = 0  # characters of the front's heading that have been released
        self._answer: list[str] = []
        self._is_closed = False

    @property
    def answer(self) -> str:
        """All text released so far."""
        return "".join(self._answer)

    @property
    def front(self) -> int:
        """The first segment that is not finished: its text is released as it comes."""
        return self._front

    @property
    def is_complete(self) -> bool:
        """The sketch is closed and all its segments are finished, so `answer` is final."""
        return self._is_closed and self._front == len(self._parts)

    def add_segment(self, segment: Segment) -> str:
        """The next segment of the sketch is known."""
        if self._is_closed or segment.index != len(self._parts):
            state = "the sketch is closed" if self._is_closed else f"{len(self._parts)} is next"
            raise ValueError(f"segment {segment.index} cannot be added: {state}")
        self._parts.append(_Part(segment))
        self._coming = ""
        return self._begin() if segment.index == self._front else ""

    def begin_segment(self, text: str) -> str:
        """The text of the next segment will begin with `text`, which may be ""."""
        self._coming = text
        return self._begin() if self._front == len(self._parts) else ""

    @property
    def has_begun_next(self) -> bool:
        """Something of a segment that was not added yet has been released."""
        return self._front == len(self._parts) and self._num_opened > 0

    def add_text(self, index: int, text: str) -> str:
        """More (shaped) text of a segment."""
        self._open_part(index).text += text
        return self._release() if index == self._front else ""

    def finish(self, index: int) -> str:
        """A segment's text is complete."""
        self._open_part(index).is_finished = True
        released = ""
        while self._front < len(self._parts) and self._parts[self._front].is_finished:
            self._front += 1
            self._num_opened = 0
            released += self._begin()
        return released

    def close_sketch(self) -> str:
        """No more segments will be added."""
        if self.has_begun_next:
            raise ValueError(f"segment {self._front} was begun and must be added")
        self._is_closed, self._coming = True, ""
        return ""

    def written(self, index: int) -> str:
        """Text of a segment that has been released, without its heading: what a new attempt has
        to continue."""
        part = self._part(index)
        return part.text[: part.num_released]

    def discard(self, index: int) -> None:
        """Forget what was added to a segment and not released: its attempt failed, another will
        write it."""
        part = self._open_part(index)
        part.text = part.text[: part.num_released]

    def _begin(self) -> str:
        """Release the heading of the front segment as far as it is known, and the text it has."""
        is_known = self._front < len(self._parts)
        text = self._parts[self._front].segment.text if is_known else self._coming
        if not text:
            return ""
        line = f"{self._front + 1}. **{heading(text)}" + ("**" if is_known else "")
        line = f"\n\n{line}" if self._front else line
        released, self._num_opened = line[self._num_opened :], len(line)
        return self._say(released) + (self._release() if is_known else "")

    def _release(self) -> str:
        part = self._parts[self._front]
        text = part.text[part.num_released :]
        if text and not part.num_released:
            text = f": {text}"
        part.num_released = len(part.text)
        return self._say(text)

    def _say(self, text: str) -> str:
        if text:
            self._answer.append(text)
        return text

    def _part(self, index: int) -> _Part:
        if not 0 <= index < len(self._parts):
            raise ValueError(f"segment {index} is not of this sketch of {len(self._parts)}")
        return self._parts[index]

    def _open_part(self, index: int) -> _Part:
        part = self._part(index)
        if part.is_finished:
            raise ValueError(f"segment {index} is finished")
        return part
