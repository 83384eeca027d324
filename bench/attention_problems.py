"""The attention kernels over a paged cache, beside torch's and FlashInfer's on the same values."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from problem import Draw, NotTimed, Problem
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from picert.kernels.launch import ModelShape, StepShape
from picert.kernels.ops import AttentionMeta
from picert.kernels.paged_decode import paged_decode
from picert.kernels.paged_prefill import paged_prefill
from picert.kernels.shared_prefix import find_shared_prefixes
from picert.kernels.torch_ops import TorchOps

ORACLE = TorchOps()
BLOCK_SIZE = 16
CHECKED = 8  # the last queries of the last sequence: they see most
WORKSPACE = 128 << 20  # bytes, as FlashInfer's examples give it


@dataclass(frozen=True, slots=True)
class Paged:
    """Sequences of one length with as many new tokens each, over scattered blocks."""

    step: StepShape
    q: Tensor  # [T, H, D]
    k_cache: Tensor  # [N, B, G, D]
    v_cache: Tensor
    meta: AttentionMeta

    @classmethod
    def drawn(cls, model: ModelShape, step: StepShape, draw: Draw) -> Paged:
        """Nothing is shared."""
        return cls._over(model, step, draw, num_shared=0)

    @classmethod
    def sharing_half(cls, model: ModelShape, step: StepShape, draw: Draw) -> Paged:
        """The first half of all contexts is one. Raises NotTimed where that is too little."""
        paged = cls._over(model, step, draw, num_shared=step.context // 2 // BLOCK_SIZE)
        tables, lengths = (
            x.cpu().numpy() for x in (paged.meta.block_tables, paged.meta.context_lens)
        )
        shared = find_shared_prefixes(tables, lengths, BLOCK_SIZE)
        if shared is None:
            raise NotTimed("so little is shared that each sequence reads it for itself")
        return replace(paged, meta=replace(paged.meta, shared_prefixes=shared.to(draw.device)))

    @classmethod
    def _over(cls, model: ModelShape, step: StepShape, draw: Draw, num_shared: int) -> Paged:
        """Scattered blocks, of which all sequences begin with the same `num_shared`."""
        width = -(-step.context // BLOCK_SIZE)
        shape = (step.batch * width, BLOCK_SIZE, model.num_kv_heads, model.head_dim)
        device = draw.device
        starts = torch.arange(step.batch + 1, dtype=torch.int32, device=device) * step.query_len
        tables = draw.permutation(shape[0]).view(step.batch, width)
        tables[:, :num_shared] = tables[0, :num_shared].clone()
        meta = AttentionMeta(
            slot_mapping=torch.empty(0, dtype=torch.int32, device=device),
            query_start=starts,
            context_lens=torch.full_like(starts[1:], step.context),
            block_tables=tables,
            max_query_len=step.query_len,
            max_context_len=step.context,
        )
        q = draw.normal(step.num_tokens, model.num_heads, model.head_dim)
        return cls(step, q, draw.normal(*shape), draw.normal(*shape), meta)

    @property
    def scale(self) -> float:
        """On the scores."""
        return float(self.q.shape[-1] ** -0.5)

    def run(self, kernel: Callable[..., Tensor]) -> Tensor:
        """One of ours."""
        return kernel(
            *(self.q, self.k_cache, self.v_cache, self.meta),
            scale=self.scale,
            sliding_window=None,
            soft_cap=None,
        )

    def check(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """The last queries, in fp32."""
        count = min(CHECKED, self.step.query_len)
        last = replace(
            self.meta,
            query_start=torch.tensor([0, count], dtype=torch.int32, device=self.q.device),
            context_lens=self.meta.context_lens[-1:],
            block_tables=self.meta.block_tables[-1:],
        )
        wanted = ORACLE.attention(
            *(self.q[-count:].float(), self.k_cache, self.v_cache, last),
            scale=self.scale,
            sliding_window=None,
            soft_cap=None,
        )
        return found[-count:], wanted

    def torch_sdpa(self) -> Callable[[], Tensor]:
        """Over keys and values that lie in a row already, which paging does not."""
        q = self.q.unflatten(0, (self.step.batch, self.step.query_len)).transpose(1, 2)
        k, v = (
            cache[self.meta.block_tables.long()].flatten(1, 2)[:, : self.step.context]
            for cache in (self.k_cache, self.v_cache)
        )
        k, v = (x.transpose(1, 2).contiguous() for x in (k, v))  # [batch, G, context, D]
        mask = causal_lower_right(self.step.query_len, self.step.context)
        mask = None if self.step.query_len == 1 else mask
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    def flashinfer(self) -> Callable[[], object]:
        """Over the same pages. Raises whatever it raises."""
        library: Any = importlib.import_module("flashinfer")
        workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=self.q.device)
        width = self.meta.block_tables.shape[1]
        page_starts = (
            torch.arange(self.step.batch + 1, dtype=torch.int32, device=self.q.device) * width
        )
        pages = self.meta.block_tables.flatten()
        last_page = torch.full_like(
            self.meta.context_lens, self.step.context - (width - 1) * BLOCK_SIZE
        )
        sizes = (self.q.shape[1], self.k_cache.shape[2], self.q.shape[2], BLOCK_SIZE)
        if self.step.query_len == 1:
            wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD")
            wrapper.plan(page_starts, pages, last_page, *sizes, q_data_type=self.q.dtype)
        else:
            wrapper = library.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
            starts = self.meta.query_start
            wrapper.plan(
                *(starts, page_starts, pages, last_page, *sizes),
                causal=True,
                q_data_type=self.q.dtype,
            )
        return lambda: wrapper.run(self.q, (self.k_cache, self.v_cache))


def _problem(kernel: Callable[..., Tensor], paged: Paged) -> Problem:
    peers: dict[str, Callable[[], Callable[[], object]]] = {
        "torch SDPA, contiguous": paged.torch_sdpa
    }
    if importlib.util.find_spec("flashinfer") is not None:
        peers["FlashInfer"] = paged.flashinfer
    return Problem(lambda: paged.run(kernel), paged.check, peers)


def paged_prefill_problem(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    """A chunk of each prompt over what is cached of it."""
    return _problem(paged_prefill, Paged.drawn(model, step, draw))


def paged_decode_problem(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    """One token of each sequence."""
    return _problem(paged_decode, Paged.drawn(model, step, draw))


def shared_decode_problem(model: ModelShape, step: StepShape, draw: Draw) -> Problem:
    """One token of each segment of a sketch."""
    return _problem(paged_decode, Paged.sharing_half(model, step, draw))
