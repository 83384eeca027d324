"""Sketch text -> Segments, line by line as it is written; tolerant of what models really write.

A sketch is a numbered list. Its first accepted line settles whether points are numbered or
bulleted; what is indented under a point, or marked otherwise, is detail that the expansions will
write, and is dropped.
"""

from __future__ import annotations

import re
from typing import Literal

from picert.messages import Segment
from picert.pice.wording import (
    STOP_WORDS,
    before_chat_marker,
    content_words,
    has_chat_marker,
    num_new_words,
    one_line,
    similarity,
    words,
)

MAX_LINE_CHARS = 240  # what follows in the line is ignored
_KEPT_CHARS = 200  # of them that stay, however long the line's last word turns out to be
_SAME_POINT = 0.75  # similarity from which two lines say the same
_MAX_TITLE_WORDS = 8

_POINT = re.compile(
    r"(?P<indent>\s*)(?:#+\s*)?(?:\*\*|__)?"
    r"(?:(?P<number>\(?\d{1,3}(?:[.):\]、．]|\s+[-–—](?=\s)))|(?P<bullet>[-*+•‣·–—](?=\s|$)))"
    r"(?P<text>.*)"
)
_OPENERS = (
    *("sure", "certainly", "of course", "okay", "ok", "absolutely", "great", "here", "below"),
    *("the following", "these"),
)
_OPENING = re.compile(rf"(?:{'|'.join(_OPENERS)})\b.*:$")  # of folded text
_QUOTES = ("\"“'‘", "\"”'’")  # that open and close
_LOOSE_END = "*_`"  # what these are depends on the next character
_MARKER_START = re.compile(r"[<\[]")
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)")
_SEPARATOR = re.compile(r":\s+|\s+[-–—]\s+|：")

Style = Literal["number", "bullet"]


class SketchParser:
    """Incremental parser of one sketch. Never raises, whatever the text; holds one line and
    `max_segments` points.

    The result does not depend on how the text is cut into pieces. Lines that repeat an earlier
    one, or that only restate `question`, are dropped.
    """

    def __init__(self, max_segments: int, question: str = "") -> None:
        self._max_segments = max_segments
        self._question = question
        self._segments: list[Segment] = []
        self._line = ""
        self._is_overlong = False  # the current line was taken, its rest is ignored
        self._is_complete = max_segments < 1
        self._style: Style | None = None
        self._indent = 0

    @property
    def is_complete(self) -> bool:
        """Nothing more will come: `max_segments` reached, the model ended its turn in text, or
        `finish` was called."""
        return self._is_complete

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments found so far."""
        return tuple(self._segments)

    @property
    def begun(self) -> str:
        """The point that is being written, as far as nothing that may follow can change or drop
        it; "" while that is open.

        It only grows, and it is the beginning of the text of the segment that its line becomes.
        """
        match = self._match(_settled(self._line))
        if self._is_complete or match is None:
            return ""
        text = _unmarked(match["text"])
        if not text or text[0] in _QUOTES[0] or _may_be_opening(text):
            return ""
        text = _clean(match["text"])
        return text if text and self._stays_new(text) else ""

    def push(self, text: str) -> list[Segment]:
        """Take more sketch text (the prefill "1." first); return the segments it completed."""
        before = len(self._segments)
        for piece in re.split(r"([\n\r])", text):
            if self._is_complete:
                break
            if piece in ("\n", "\r"):
                self._end_line()
            else:
                self._extend_line(piece)
        return self._segments[before:]

    def finish(self, *, cut: bool = False) -> list[Segment]:
        """The sketch is over. The last line counts, unless the budget `cut` it short."""
        before = len(self._segments)
        if not self._is_complete and not cut:
            self._end_line()
        self._line, self._is_complete = "", True
        return self._segments[before:]

    def _extend_line(self, piece: str) -> None:
        if self._is_overlong:
            return
        self._line += piece[: MAX_LINE_CHARS + 1 - len(self._line)]
        if len(self._line) > MAX_LINE_CHARS:
            end = self._line.rfind(" ", _KEPT_CHARS, MAX_LINE_CHARS)
            self._line = self._line[: end if end > 0 else MAX_LINE_CHARS]
            self._end_line()
            self._is_overlong = True

    def _end_line(self) -> None:
        line, self._line, self._is_overlong = self._line, "", False
        if has_chat_marker(line):
            line, self._is_complete = before_chat_marker(line), True
        match = self._match(line)
        text = "" if match is None or _is_opening(match["text"]) else _clean(match["text"])
        if match is not None and text and self._style is None:
            self._style, self._indent = _style(match), len(match["indent"])
        if text and self._is_new(text):
            self._segments.append(Segment(len(self._segments), text))
            self._is_complete |= len(self._segments) >= self._max_segments

    def _match(self, line: str) -> re.Match[str] | None:
        """`line` as a top-level point, which it is if it is marked like the first one."""
        match = _POINT.match(line.expandtabs(4))
        if match is None or self._style is None:
            return match
        is_alike = _style(match) == self._style and len(match["indent"]) <= self._indent + 1
        return match if is_alike else None

    def _is_new(self, text: str) -> bool:
        if any(_say_the_same(text, known.text) for known in self._segments):
            return False
        asked, said = set(content_words(self._question)), set(content_words(text))
        return not (said and asked and said <= asked and len(said) >= 0.6 * len(asked))

    def _stays_new(self, text: str) -> bool:
        """Whether `_is_new` holds for every point that begins with `text`: it has a word of its
        own that the question has not, and too many of its own to be an earlier point."""
        asked = set(content_words(self._question))
        if asked and not num_new_words(text, asked | STOP_WORDS):
            return False
        known_words = (set(words(known.text)) for known in self._segments)
        return all(
            len(known) < _SAME_POINT * (len(known) + num_new_words(text, known))
            for known in known_words
        )


def split_point(text: str) -> tuple[str, str]:
    """A segment's title and detail: `"Sleep: 7 to 9 hours"` -> `("Sleep", "7 to 9 hours")`; no
    detail is ""."""
    match = _SEPARATOR.search(text)
    if match is None:
        return text, ""
    title, detail = text[: match.start()].strip(), text[match.end() :].strip()
    if not detail or not 0 < len(title.split()) <= _MAX_TITLE_WORDS:
        return text, ""
    return title, detail


def heading(text: str) -> str:
    """A segment's text as it stands in bold before a colon: a dash joins title and detail."""
    title, detail = split_point(text)
    return f"{title} – {detail}" if detail else title


def _clean(text: str) -> str:
    """A point without emphasis, quotes around it and closing punctuation; "" if nothing is said."""
    text = _unmarked(text)
    if len(text) > 2 and text[0] in _QUOTES[0] and text[-1] in _QUOTES[1]:
        text = text[1:-1]
    text = text.rstrip(" .;,:：。；，、-–—").strip()
    return text if any(c.isalnum() for c in text) else ""


def _settled(line: str) -> str:
    """The part of an unfinished line that cannot turn out to be a chat marker, half an emphasis
    or cut away as too long."""
    line = _MARKER_START.split(line, maxsplit=1)[0]
    return line[: max(_KEPT_CHARS, line.rfind(" "))].rstrip(_LOOSE_END)


def _style(match: re.Match[str]) -> Style:
    return "number" if match["number"] else "bullet"


def _is_opening(text: str) -> bool:
    return _OPENING.match(_unmarked(text).casefold()) is not None


def _may_be_opening(text: str) -> bool:
    folded = text.casefold()
    return any(opener.startswith(folded) or folded.startswith(opener) for opener in _OPENERS)


def _unmarked(text: str) -> str:
    return one_line(_EMPHASIS.sub("", text))


def _say_the_same(a: str, b: str) -> bool:
    return words(a) == words(b) or similarity(a, b) >= _SAME_POINT
