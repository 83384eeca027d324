"""Byte-level BPE in plain Python, the way its paper tells it: the slow oracle of the tokenizers."""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import pairwise

import regex

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class ReferenceBpe:
    """Cuts text by patterns, one after the other, then merges by rank."""

    def __init__(
        self, tokens: tuple[str, ...], merges: tuple[str, ...], patterns: list[str], nfc: bool
    ) -> None:
        self._ids = {token: i for i, token in enumerate(tokens)}
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self._patterns = [regex.compile(pattern) for pattern in patterns]
        self._nfc = nfc
        self._char_of = _char_of_byte()

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        words = [unicodedata.normalize("NFC", text) if self._nfc else text]
        for pattern in self._patterns:
            words = [part for word in words for part in _cut(pattern, word)]
        return [self._ids[token] for word in words for token in self._merge(word)]

    def _merge(self, word: str) -> list[str]:
        parts = [self._char_of[byte] for byte in word.encode()]
        while len(parts) > 1:
            pairs = [(self._ranks.get(pair, 1 << 30), i) for i, pair in enumerate(pairwise(parts))]
            rank, i = min(pairs)
            if rank == 1 << 30:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return parts


def _cut(pattern: regex.Pattern[str], text: str) -> list[str]:
    """Matches and what lies between them, in order."""
    parts, at = [], 0
    for match in pattern.finditer(text):
        parts += [text[at : match.start()], match[0]]
        at = match.end()
    return [part for part in (*parts, text[at:]) if part]


@cache
def _char_of_byte() -> dict[int, str]:
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + n) for n, b in enumerate(others)}
