"""WordTokenizer: a tokenizer without a model. It cuts English about as finely as the real ones do,
and what simulated models write into exactly as many tokens as they were to write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from picert.messages import ChatMessage

_PIECE = re.compile(r" ?[^\W\d_]{1,9}|\d|\s|[^\w\s]|_")
_DEFAULT_SYSTEM = 21  # tokens of the turn that templates put before a conversation without one
_MAX_KNOWN = 4096  # texts whose ids are remembered: rules and examples of prompts, mostly


class WordTokenizer:
    """Ids stand for pieces of text, numbered as they come; 0 ends a text, 1 and 2 begin and end a
    turn."""

    eos_token_ids: tuple[int, ...] = (0,)

    def __init__(self) -> None:
        self._ids: dict[str, int] = {"": 0, "<turn>": 1, "</turn>": 2}
        self._pieces: list[str] = ["", "", ""]
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        known = self._known.get(text)
        if known is None:
            known = [self._id_of(piece) for piece in _PIECE.findall(text)]
            if len(self._known) >= _MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[text] = known
        return known

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt."""
        return [*self.encode(text)]

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        prefill: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation; a turn costs five tokens beside its text, as in ChatML."""
        has_system = bool(messages) and messages[0].role == "system"
        ids: list[int] = [] if has_system else [1] * _DEFAULT_SYSTEM
        for message in messages:
            ids += (1, *self.encode(message.role), 1, *self.encode(message.content), 2, 2)
        if add_generation_prompt:
            ids += (1, *self.encode("assistant"), 1)
        return [*ids, *self.encode(prefill)]

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return "".join(self._pieces[token_id] for token_id in token_ids)

    def _id_of(self, piece: str) -> int:
        number = self._ids.get(piece)
        if number is None:
            number = self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return number
