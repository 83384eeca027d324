"""Drives a native Decoder step by step over a paged cache with scattered blocks, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picert import _C
from picert.engine.runner import native_config
from picert.models.weights import Checkpoint

Floats = NDArray[np.float32]


def native_decoder(
    checkpoint: Checkpoint, isa: str = "", num_threads: int = 2, quantization: str = "none"
) -> _C.Decoder:
    """The checkpoint's weights in the extension."""
    tensors = {name: (t.dtype, t.shape, t.data) for name, t in checkpoint.tensors.items()}
    config = native_config(checkpoint.config)
    return _C.Decoder(config, tensors, num_threads, isa, quantization)


class NativeDecoding:
    """Sequences over one decoder. Blocks are dealt in a shuffled order, so none lie in a row."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: _C.Decoder,
        *,
        block_size: int = 4,
        num_blocks: int = 256,
        kv_format: str = "fp16",
    ) -> None:
        self._decoder = decoder
        self._block_size = block_size
        self._vocab_size = checkpoint.config.vocab_size
        self._free: list[int] = np.random.default_rng(1).permutation(num_blocks).tolist()
        self._blocks: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}
        decoder.allocate_kv(num_blocks, block_size, kv_format)

    def step(self, tokens: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
        """Append tokens to each named sequence; logits [len(tokens), V] of all of them."""
        arrays = self.arrays(tokens)
        out = np.empty((len(arrays["token_ids"]), self._vocab_size), np.float32)
        self._decoder.step(**arrays, logits_out=out)
        ends = np.cumsum([len(ids) for ids in tokens.values()])[:-1]
        return dict(zip(tokens, np.split(out, ends), strict=True))

    def arrays(self, tokens: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """The arguments of the step that appends `tokens`, logits wanted of every row."""
        positions: list[int] = []
        slots: list[int] = []
        for name, ids in tokens.items():
            begin = self._lengths.get(name, 0)
            self._lengths[name] = begin + len(ids)
            positions += range(begin, begin + len(ids))
            slots += [self._slot(name, position) for position in range(begin, begin + len(ids))]
        widest = max(len(self._blocks[name]) for name in tokens)
        lists = {
            "token_ids": [token for ids in tokens.values() for token in ids],
            "positions": positions,
            "slot_mapping": slots,
            "query_start": np.cumsum([0, *(len(ids) for ids in tokens.values())]),
            "context_lens": [self._lengths[name] for name in tokens],
            "block_tables": [(self._blocks[n] + [0] * widest)[:widest] for n in tokens],
            "logits_indices": range(len(positions)),
        }
        return {name: np.array(values, np.int32) for name, values in lists.items()}

    def _slot(self, name: str, position: int) -> int:
        blocks = self._blocks.setdefault(name, [])
        if position // self._block_size == len(blocks):
            blocks.append(self._free.pop())
        return blocks[position // self._block_size] * self._block_size + position % self._block_size
