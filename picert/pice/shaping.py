"""What an edge writes -> text fit for the answer, as a stream that releases whole sentences.

An expansion that hits its budget must end at a sentence end, and what has been shown cannot be
taken back, so the unfinished sentence is held back. The cost is small: a sentence of a small model
takes a fraction of a second, and the heading above it is already on the screen. The gain is that a
sentence which restates the heading, repeats an earlier one or carries a chat marker is never shown.
"""

from __future__ import annotations

import re

from picert.pice.sketch import heading, split_point
from picert.pice.wording import (
    before_chat_marker,
    has_chat_marker,
    has_loop,
    one_line,
    similarity,
    words,
)

MAX_SENTENCE_CHARS = 1000  # a "sentence" longer than this has no end: the text went astray
_SAME_SENTENCE = 0.8  # similarity from which two sentences say the same
_MIN_CLAUSE_WORDS = 4

# A sentence ends at a full stop before white space, at one of the scripts that put no space after
# it, or at a blank line. One character of look-ahead makes the cut independent of the pieces.
_END = re.compile(
    r"[.!?…]+[\"'”’)\]*_]*(?=\s)|[。！？｡]+[」』”’）]*(?=[^。！？｡」』”’）])|\n[ \t]*\n+(?=[^\n])"
)
_NO_END = re.compile(
    r"(?:^|\s)\(?(?:\d{1,3}|[A-Za-z]|e\.g|i\.e|etc|vs|cf|approx|Dr|Mr|Mrs|Ms|Prof|St|No|Fig|U\.S)\.$"
)
_LIST_MARK = re.compile(r"^\s*(?:#+\s*|\(?\d{1,3}[.)]\s+|[-*•–]\s+)+")
_UNSPACED_END = "。！？｡"


class ExpansionShaper:
    """Shapes the text of one segment. `written` is text of it that users have already seen (an
    earlier attempt)."""

    def __init__(self, segment_text: str, written: str = "") -> None:
        title, detail = split_point(segment_text)
        self._titles = [t for t in (segment_text, heading(segment_text), title, detail) if t]
        self._known = [segment_text, *_sentences(written)]
        self._last = written
        self._pending = ""
        self._num_dropped = 0
        self._released: list[str] = []
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Nothing more will be released: the text went round, or left its turn. The rest of it
        can be cancelled."""
        return self._is_over

    @property
    def text(self) -> str:
        """All that was released, without `written`."""
        return "".join(self._released)

    def push(self, text: str) -> str:
        """Take more raw text; return what is released now (often "")."""
        before = len(self._released)
        self._pending += text
        while not self._is_over and 0 < (end := _sentence_end(self._pending)) <= MAX_SENTENCE_CHARS:
            sentence, self._pending = self._pending[:end], self._pending[end:]
            self._take(sentence)
        self._is_over |= len(self._pending) > MAX_SENTENCE_CHARS
        return "".join(self._released[before:])

    def finish(self, *, cut: bool) -> str:
        """The raw text is over; `cut` if its budget ended it. Returns the rest that is fit to be
        shown."""
        before = len(self._released)
        if not self._is_over:
            self._take_last(self._pending, cut)
        self._pending, self._is_over = "", True
        return "".join(self._released[before:])

    def _take_last(self, text: str, cut: bool) -> None:
        """The end of the text has no sentence end to rely on."""
        text = one_line(text)
        if cut and self._last:
            return
        if cut:
            self._take(_whole_words(text))
        elif not (text.endswith((":", "：")) and self._last):  # announces a list that is not there
            self._take(_with_full_stop(text.rstrip(" :：,;")))

    def _take(self, raw: str) -> None:
        """Release one sentence, unless it should not be shown."""
        if has_chat_marker(raw):
            self._is_over, raw = True, before_chat_marker(raw)
        sentence = one_line(raw.replace("**", ""))
        if not self._last:
            sentence = self._without_heading(sentence)
        if not words(sentence):
            return
        if has_loop(sentence) or any(_say_the_same(sentence, known) for known in self._known):
            self._num_dropped += 1
            self._is_over |= self._num_dropped > 1 or len(self._known) > 1 or has_loop(sentence)
            return
        self._known.append(sentence)
        self._released.append(self._gap() + sentence)
        self._last = sentence

    def _without_heading(self, sentence: str) -> str:
        """The first sentence without list marks and without the heading it may begin with."""
        sentence = _LIST_MARK.sub("", sentence)
        for title in self._titles:
            rest = sentence[len(title) :].lstrip()
            if sentence.casefold().startswith(title.casefold()) and rest[:1] in ":：.–—-":
                sentence = rest.lstrip(" :：.–—-")
        return sentence[:1].upper() + sentence[1:]

    def _gap(self) -> str:
        if not self._last or self._last[-1].isspace() or self._last[-1] in _UNSPACED_END:
            return ""
        return " "


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence; "" without one."""
    end = 0
    while more := _sentence_end(f"{text[end:]} "):
        end += more
    return text[:end]


def _sentence_end(text: str) -> int:
    """Where the first sentence of `text` ends, or 0 if that is not known yet."""
    for match in _END.finditer(text):
        if not _NO_END.search(text[: match.end()]):
            return match.end()
    return 0


def _sentences(text: str) -> list[str]:
    found = []
    while end := _sentence_end(text):
        found.append(text[:end])
        text = text[end:]
    return [*found, text] if text.strip() else found


def _with_full_stop(text: str) -> str:
    return text + "." if text and (text[-1].isalnum() or text[-1] in ')]%"”') else text


def _whole_words(text: str) -> str:
    """A cut text up to its last clause or word, and an ellipsis."""
    words_only = text.rsplit(" ", 1)[0] if " " in text else text
    clause = re.split(r"[,;:](?=\s)", words_only)
    if len(clause) > 1 and len(" ".join(clause[:-1]).split()) >= _MIN_CLAUSE_WORDS:
        words_only = words_only[: -len(clause[-1]) - 1]
    return f"{words_only} …" if words(words_only) else ""


def _say_the_same(a: str, b: str) -> bool:
    return words(a) == words(b) or similarity(a, b) >= _SAME_SENTENCE
