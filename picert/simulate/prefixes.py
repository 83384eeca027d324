"""Prefixes: how much of a prompt an engine has read before, by blocks, as the real cache counts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence


class Prefixes:
    """Remembers chains of blocks, the least lately used go first. Whole blocks count, and at least
    one token of a prompt is always read."""

    def __init__(self, kv_tokens: int, block_size: int = 16) -> None:
        self._block_size = block_size
        self._max_blocks = max(1, kv_tokens // block_size)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def num_known(self, ids: Sequence[int]) -> int:
        """Tokens at the start of a prompt that need not be read again."""
        known = 0
        for end, key in self._keys(ids):
            if key not in self._blocks or end >= len(ids):
                break
            self._blocks.move_to_end(key)
            known = end
        return known

    def add(self, ids: Sequence[int]) -> None:
        """A prompt was read."""
        for _, key in self._keys(ids):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Its memory is lost."""
        self._blocks.clear()

    def _keys(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The end of each whole block, and what stands for it and all before it."""
        size, key = self._block_size, 0
        for end in range(size, len(ids) + 1, size):
            key = hash((key, *ids[end - size : end]))
            yield end, key
