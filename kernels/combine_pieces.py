"""The second pass of attention that is split over the length: partial results folded in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work
from picert.kernels.ops import AttentionMeta
from picert.kernels.paged_softmax import LOWEST, ROOMS, room_for
from picert.kernels.shared_prefix import PIECE

_VALUES = 2048  # of a step: 16 for each thread of 4 warps


@dataclass(frozen=True, slots=True)
class Partial:
    """Partial results of S sequences, P pieces of each; what is no piece of one is not defined."""

    sums: Tensor  # [S, H, P, D] fp32: sum over the piece of exp2(score - highest) * v
    stats: Tensor  # [2, S, H, P] fp32: highest, and the sum of exp2(score - highest)

    @classmethod
    def empty(cls, q: Tensor, num_pieces: int) -> Partial:
        """For queries [S, H, D]; of no size if one piece is all, which needs none."""
        num_seqs, num_heads, head_dim = q.shape
        shape = (num_seqs, num_heads, num_pieces if num_pieces > 1 else 0)
        sums = q.new_empty((*shape, head_dim), dtype=torch.float32)
        return cls(sums, q.new_empty((2, *shape), dtype=torch.float32))


# Of no use to the compiler, which would make other code for other values.
_TABLES = ("context_len_ptr", "covered_ptr")
_NUMBERS = ("num_seqs", "window", "max_pieces", "has_runs")


@triton.jit(do_not_specialize=(*_TABLES, *_NUMBERS))
def _combine(
    part_ptr,  # [S, H, max_pieces, D] fp32
    stat_ptr,  # [2, S, H, max_pieces] fp32
    out_ptr,  # [S, H, D]
    context_len_ptr,  # [S] int32
    covered_ptr,  # [S, 2] int32, read if has_runs
    stride_out_token: tl.int64,
    stride_out_head: tl.int64,
    num_seqs,
    head_dim,
    window,
    max_pieces,
    has_runs,
    PIECE: tl.constexpr,
    PIECES: tl.constexpr,
    DIM: tl.constexpr,
):
    """out = sum(exp2(highest[p] - m) * part[p]) / sum(exp2(highest[p] - m) * total[p])."""
    head = tl.program_id(0)
    seq = tl.program_id(1).to(tl.int64)
    context_len = tl.load(context_len_ptr + seq)
    covered = tl.load(covered_ptr + 2 * seq, mask=has_runs != 0, other=0)
    num_shared = tl.load(covered_ptr + 2 * seq + 1, mask=has_runs != 0, other=0)
    num_pieces = num_shared + tl.maximum(tl.cdiv(context_len - covered, PIECE), 1)
    oldest = context_len - window  # of what the query sees
    skipped = tl.where(oldest < covered, 0, num_shared + (oldest - covered) // PIECE)
    dims = tl.arange(0, DIM)
    of_head = (seq * tl.num_programs(0) + head) * max_pieces
    of_total = num_seqs.to(tl.int64) * tl.num_programs(0) * max_pieces
    highest = LOWEST
    total = 0.0
    sums = tl.zeros((DIM,), tl.float32)
    for first in range(skipped, num_pieces, PIECES):
        pieces = first + tl.arange(0, PIECES)
        is_piece = pieces < num_pieces
        places = of_head + pieces
        each = tl.load(stat_ptr + places, mask=is_piece, other=LOWEST)
        before = highest
        highest = tl.maximum(before, tl.max(each, axis=0))
        weights = tl.exp2(each - highest)
        decay = tl.exp2(before - highest)
        totals = tl.load(stat_ptr + of_total + places, mask=is_piece, other=0.0)
        total = total * decay + tl.sum(weights * totals, axis=0)
        mask = is_piece[:, None] & (dims < head_dim)[None, :]
        parts = tl.load(part_ptr + places[:, None] * head_dim + dims[None, :], mask=mask, other=0.0)
        sums = sums * decay + tl.sum(weights[:, None] * parts, axis=0)
    out = sums / tl.where(total > 0, total, 1.0)
    places = seq * stride_out_token + head * stride_out_head + dims
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask=dims < head_dim)


def _work(model: ModelShape, step: StepShape, _: int) -> Work | None:
    """Partial results of sequences that share nothing, with highest and total of each."""
    pieces = triton.cdiv(step.context, PIECE)
    if step.query_len > 1 or pieces == 1:
        return None
    num_results = step.batch * model.num_heads
    values = num_results * model.head_dim
    return Work(
        KERNEL.config(str(room_for(model.head_dim))),
        num_programs=num_results,
        bytes=4 * pieces * (values + 2 * num_results) + 2 * values,
        flops=3 * pieces * values,
    )


KERNEL = Kernel(
    name="paged_decode_combine",
    function=_combine,
    arguments={
        **dict.fromkeys(("part_ptr", "stat_ptr"), "*fp32:16"),
        "out_ptr": "*T:16",
        **dict.fromkeys(_TABLES, "*i32"),
        **dict.fromkeys(("stride_out_token", "stride_out_head"), "i64:16"),
        **dict.fromkeys(_NUMBERS, "i32"),
        "head_dim": "i32:16",
    },
    configs=tuple(
        Config(
            str(room),
            {"PIECE": PIECE, "PIECES": _VALUES // room, "DIM": room},
            num_warps=4,
        )
        for room in ROOMS
    ),
    work=_work,
)


def combine_pieces(
    partial: Partial, meta: AttentionMeta, window: int, room: int, out: Tensor
) -> None:
    """Fold them into out[S, H, D]."""
    num_seqs, num_heads, num_pieces, head_dim = partial.sums.shape
    shared = meta.shared_prefixes
    covered = meta.context_lens if shared is None else shared.covered
    tensors = (partial.sums, partial.stats, out, meta.context_lens, covered)
    sizes = (num_seqs, head_dim, window, num_pieces, int(shared is not None))
    grid = (num_heads, num_seqs)
    KERNEL.launch(KERNEL.config(str(room)), grid, *tensors, *out.stride()[:2], *sizes)
