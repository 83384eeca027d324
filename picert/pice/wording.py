"""How texts are compared: words, content words, overlap, loops. Pure functions, for any script."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

# Scripts written without spaces: a character stands for a word, so that overlap means something.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:['’][^\W_{_UNSPACED}]+)*")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")  # what the same finds in folded ASCII, sooner
_MARKER = re.compile(
    r"<\|[^<>|\n]{0,40}\|>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|\[/?INST\]|<</?SYS>>"
)
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about all also am an and any are as at be because been but by can could did do does "
        "doing for from get had has have he her him his how i if in into is it its just like make "
        "may me might more most much must my no not of on one or our out over s she should so "
        "some such t than that the their them then there these they this those to too up us very "
        "was way ways we were what when where which while who why will with would you your ",
    )
)


def words(text: str) -> list[str]:
    """The words of `text`, folded in case and width, without punctuation."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def content_words(text: str) -> list[str]:
    """`words` without those that carry no content (English only)."""
    return [word for word in words(text) if word not in STOP_WORDS]


def num_new_words(text: str, known: Collection[str]) -> int:
    """How many distinct words beside `known` any text has that begins with `text`, at least: its
    last word may be the beginning of a longer one."""
    said = words(text)
    if not said:
        return 0
    whole, begun = set(said[:-1]), _letters(said[-1])
    may_be_known = any(_letters(word).startswith(begun) for word in (*known, *whole))
    return len(whole.difference(known)) + (not may_be_known)


def _letters(word: str) -> str:
    """Without marks above and below, which may follow the letter they go with."""
    if word.isascii():
        return word
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` neighbours, in order."""
    return list(zip(*(sequence[i:] for i in range(n)), strict=False))


def similarity(a: str, b: str) -> float:
    """Shared part of the two texts' distinct words, 0 to 1 (Jaccard)."""
    first, second = set(words(a)), set(words(b))
    return len(first & second) / len(first | second) if first and second else 0.0


def recall(reference: str, text: str) -> float:
    """Share of the reference's content words that `text` has, too; 1 where there are none."""
    wanted = set(content_words(reference))
    return len(wanted & set(words(text))) / len(wanted) if wanted else 1.0


def rouge_l(a: str, b: str) -> float:
    """Longest common subsequence of the two texts' words over their mean length, 0 to 1."""
    first, second = words(a), words(b)
    if not (first and second):
        return 0.0
    row = [0] * (len(second) + 1)
    for word in first:
        above_left = 0
        for n, other in enumerate(second, start=1):
            above = row[n]
            row[n] = above_left + 1 if word == other else max(above, row[n - 1])
            above_left = above
    return 2 * row[-1] / (len(first) + len(second))


def has_loop(text: str) -> bool:
    """Whether `text` goes round: four words said three times, or few distinct runs of three."""
    tokens = words(text)
    runs = Counter(ngrams(tokens, 4))
    if runs and max(runs.values()) >= 3:
        return True
    threes = ngrams(tokens, 3)
    return len(threes) >= 10 and len(set(threes)) < 0.6 * len(threes)


def has_chat_marker(text: str) -> bool:
    """Whether `text` has a piece of some chat template in it, such as an end-of-turn marker."""
    return _MARKER.search(text) is not None


def before_chat_marker(text: str) -> str:
    """`text` up to its first chat marker."""
    return _MARKER.split(text, maxsplit=1)[0]


def one_line(text: str) -> str:
    """`text` on one line: white space runs become a space, control characters are dropped."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def counted(number: int, noun: str) -> str:
    """`1 edge`, `2 edges`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
