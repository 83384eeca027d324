"""Drives a torch Decoder step by step over a paged cache with scattered blocks, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from picert.kernels.ops import AttentionMeta
from picert.kernels.torch_ops import TorchOps
from picert.models.decoder import Decoder, load_decoder
from picert.models.weights import Checkpoint

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


class PagedDecoding:
    """Sequences over one decoder. Blocks are dealt in a shuffled order, so none lie in a row."""

    def __init__(self, decoder: Decoder, *, block_size: int = 4, num_blocks: int = 256) -> None:
        config = decoder.config
        shape = (num_blocks, block_size, config.num_kv_heads, config.head_dim)
        self._decoder = decoder
        self._block_size = block_size
        self._caches = [  # NaN: whoever reads what nobody wrote is found out
            (torch.full(shape, float("nan")), torch.full(shape, float("nan")))
            for _ in range(config.num_layers)
        ]
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1))
        self._free = order.tolist()
        self._blocks: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}

    def step(
        self, tokens: Mapping[str, Sequence[int]], *, last_only: bool = False
    ) -> dict[str, Tensor]:
        """Append tokens to each named sequence; logits [len(tokens), V], or [1, V] of the last."""
        positions, slots, starts = [], [], [0]
        for name, ids in tokens.items():
            begin = self._lengths.get(name, 0)
            positions += range(begin, begin + len(ids))
            slots += [self._slot(name, position) for position in range(begin, begin + len(ids))]
            starts.append(starts[-1] + len(ids))
            self._lengths[name] = begin + len(ids)
        flat = [token for ids in tokens.values() for token in ids]
        wanted = [end - 1 for end in starts[1:]] if last_only else range(len(flat))
        logits = self._decoder(
            token_ids=_int32(flat),
            positions=_int32(positions),
            meta=self._meta(list(tokens), slots, starts),
            caches=self._caches,
            logits_indices=_int32(wanted),
        )
        parts = logits.split([1 if last_only else len(ids) for ids in tokens.values()])
        return dict(zip(tokens, parts, strict=True))

    def _slot(self, name: str, position: int) -> int:
        blocks = self._blocks.setdefault(name, [])
        if position // self._block_size == len(blocks):
            blocks.append(self._free.pop())
        return blocks[position // self._block_size] * self._block_size + position % self._block_size

    def _meta(self, names: list[str], slots: list[int], starts: list[int]) -> AttentionMeta:
        widest = max(len(self._blocks[name]) for name in names)
        lengths = [self._lengths[name] for name in names]
        return AttentionMeta(
            slot_mapping=_int32(slots),
            query_start=_int32(starts),
            context_lens=_int32(lengths),
            block_tables=_int32([(self._blocks[n] + [0] * widest)[:widest] for n in names]),
            max_query_len=max(b - a for a, b in pairwise(starts)),
            max_context_len=max(lengths),
        )


def fp32_decoder(checkpoint: Checkpoint) -> Decoder:
    """The oracle: plain torch, fp32, on the CPU."""
    return load_decoder(checkpoint, TorchOps(), device=torch.device("cpu"), dtype=torch.float32)


def logits_of(checkpoint: Checkpoint, tokens: Sequence[int]) -> Tensor:
    """fp32 logits [len(tokens), V] of one sequence in one step."""
    return PagedDecoding(fp32_decoder(checkpoint)).step({"a": tokens})["a"]


def _int32(values: Sequence[int] | Sequence[Sequence[int]] | range) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int32)
