"""Random queries over paged caches for tests of attention, and what torch_ops makes of them.

Whatever no sequence has written is NaN, so that reading it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from gpu_kernels import far_rows, noise
from torch import Tensor

from picert.kernels.ops import AttentionMeta
from picert.kernels.torch_ops import TorchOps


@dataclass(frozen=True)
class Heads:
    """Sizes of one layer's attention."""

    kv: int
    group: int  # query heads of each
    dim: int


@dataclass(frozen=True)
class Inputs:
    """What a kernel is called with."""

    q: Tensor  # [T, H, D]
    k_cache: Tensor  # [N, B, G, D]
    v_cache: Tensor
    meta: AttentionMeta

    def wanted(self, options: dict[str, Any]) -> Tensor:
        """By torch_ops in float64."""
        wide = [x.double() for x in (self.q, self.k_cache, self.v_cache)]
        return TorchOps().attention(*wide, self.meta, **options)

    def of_sequence(self, seq: int) -> Inputs:
        """It alone, over the same cache."""
        begin, end = self.meta.query_start[seq : seq + 2].tolist()
        meta = replace(
            self.meta,
            query_start=self.meta.query_start[seq : seq + 2] - begin,
            context_lens=self.meta.context_lens[seq : seq + 1],
            block_tables=self.meta.block_tables[seq : seq + 1],
            max_query_len=end - begin,
            max_context_len=int(self.meta.context_lens[seq]),
        )
        return replace(self, q=self.q[begin:end], meta=meta)


def block_tables(lengths: Sequence[int], block_size: int, seed: int) -> list[list[int]]:
    """Blocks of each sequence, none of which lie in a row."""
    counts = [-(-length // block_size) for length in lengths]
    order = torch.randperm(sum(counts) + 1, generator=torch.Generator().manual_seed(seed)).tolist()
    return [[order.pop() for _ in range(count)] for count in counts]


def paged_inputs(  # noqa: PLR0913 - what inputs may differ in
    lengths: Sequence[int],
    query_lens: Sequence[int],
    heads: Heads,
    *,
    block_size: int = 16,
    dtype: torch.dtype = torch.float16,
    device: torch.device,
    seed: int = 0,
    tables: Sequence[Sequence[int]] | None = None,
) -> Inputs:
    """Sequences of `lengths` tokens, the last `query_lens` of which are the step's."""
    tables = block_tables(lengths, block_size, seed) if tables is None else tables
    num_blocks = 1 + max((block for table in tables for block in table), default=0)
    is_written = torch.zeros(num_blocks, block_size, dtype=torch.bool)
    for table, length in zip(tables, lengths, strict=True):
        for at, block in enumerate(table):
            is_written[block, : length - at * block_size] = True
    caches = []
    for which in (1, 2):
        shape = (num_blocks, block_size, heads.kv, heads.dim)
        cache = noise(*shape, seed=seed + which, dtype=dtype, device=torch.device("cpu"))
        caches.append(cache.masked_fill(~is_written[..., None, None], torch.nan).to(device))
    # Rows of one projection: a token's queries lie among its keys and values.
    fused = noise(
        sum(query_lens),
        heads.kv * (heads.group + 2),
        heads.dim,
        seed=seed,
        dtype=dtype,
        device=device,
    )
    return Inputs(
        fused[:, : heads.kv * heads.group], *caches, meta_of(lengths, query_lens, tables, device)
    )


def meta_of(
    lengths: Sequence[int],
    query_lens: Sequence[int],
    tables: Sequence[Sequence[int]],
    device: torch.device,
) -> AttentionMeta:
    """Tensors of the same."""
    widest = max(map(len, tables), default=0)

    def int32(values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return AttentionMeta(
        slot_mapping=int32([]),
        query_start=int32([0, *accumulate(query_lens)]),
        context_lens=int32(list(lengths)),
        block_tables=int32([[*table, *[0] * (widest - len(table))] for table in tables]),
        max_query_len=max(query_lens, default=0),
        max_context_len=max(lengths, default=0),
    )


def far_apart(inputs: Inputs) -> Inputs:
    """The same, with the blocks of the caches spread over more than 2^31 values."""
    spread = []
    for cache in (inputs.k_cache, inputs.v_cache):
        far = far_rows(len(cache), cache[0].numel(), cache.device, cache.dtype).unflatten(
            1, cache.shape[1:]
        )
        far.copy_(cache)
        spread.append(far)
    return replace(inputs, k_cache=spread[0], v_cache=spread[1])
