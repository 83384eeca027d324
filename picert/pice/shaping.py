"""What an edge writes -> text fit for the answer, as a stream that releases whole sentences.

An expansion that hits its budget must end at a sentence end, and what has been shown cannot be taken back, so the
unfinished sentence is held back. The cost is small: a sentence of a small model takes a fraction of a second, and
the heading above it is already on the screen. The gain is that a sentence which restates the heading, repeats an
earlier one or carries a chat marker is never shown.
"""

from __future__ import annotations


class ExpansionShaper:
    """Shapes the text of one segment. `written` is text of it that users have already seen (an earlier attempt)."""

    def __init__(self, segment_text: str, written: str = "") -> None:
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Nothing more will be released: the text went round, or left its turn. The rest of it can be cancelled."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """All that was released, without `written`."""
        raise NotImplementedError

    def push(self, text: str) -> str:
        """Take more raw text; return what is released now (often "")."""
        raise NotImplementedError

    def finish(self, *, cut: bool) -> str:
        """The raw text is over; `cut` if its budget ended it. Returns the rest that is fit to be shown."""
        raise NotImplementedError
