"""Vocabulary: what a tokenizer file holds, in whichever format, and the bytes of each token.

Special tokens (control tokens such as `<|im_end|>`) are kept apart from the backend that encodes
text, so that no text can produce one.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tokenizers import Tokenizer as Backend

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# "first": a blank before the very first word unless one is there; "sentence" (SentencePiece):
# always one, at the start and after bos and eos.
SpacePrefix = Literal["none", "first", "sentence"]
END_MARKERS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>"),
    *("<|endoftext|>", "<|end_of_text|>"),
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything about a tokenizer that a file says. Token texts are spelled as in the file."""

    backend: Backend  # encodes text; never yields a special token
    tokens: tuple[str, ...]  # [vocab_size], "" where an id is not in use
    special: Mapping[str, int]  # text -> id
    literal_ids: frozenset[int]  # tokens that are written as they are, not in the spelling
    spelling: Literal["byte_level", "sentencepiece"]
    space_prefix: SpacePrefix = "none"
    strips_blank: bool = False  # decoding drops one blank from the front
    bos_token_id: int | None = None
    adds_bos: bool = False
    eos_token_ids: tuple[int, ...] = ()
    unk_token_id: int | None = None
    pad_token_id: int | None = None
    chat_template: str | None = None
    special_ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "special_ids", frozenset(self.special.values()))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for: often a word, sometimes a part of one character."""
        text = self.tokens[token_id]
        if token_id in self.literal_ids:
            return text.encode("utf-8", "replace")
        if self.spelling == "byte_level":
            try:
                return codecs.charmap_encode(text, "strict", _BYTE_OF)[0]
            except UnicodeEncodeError:  # it is not in the spelling
                return text.encode("utf-8", "replace")
        byte = _BYTE_TOKEN.fullmatch(text)
        if byte:
            return bytes([int(byte[1], 16)])
        return text.replace("▁", " ").encode("utf-8", "replace")


def end_token_ids(special: Mapping[str, int], declared: tuple[int, ...]) -> tuple[int, ...]:
    """The declared end tokens and the well-known end-of-turn markers of a vocabulary, once each."""
    known = (special[marker] for marker in END_MARKERS if marker in special)
    return tuple(dict.fromkeys((*declared, *known)))


def _byte_level_alphabet() -> dict[int, int]:
    """Code points of the characters that byte-level BPE writes for bytes, mapped to the bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {256 + n: byte for n, byte in enumerate(others)}
    return {**{byte: byte for byte in printable}, **shifted}


_BYTE_OF = _byte_level_alphabet()
