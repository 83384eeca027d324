"""Attention of one query a sequence over its paged cache, split over the length.

A sequence is cut into pieces of PIECE positions from its beginning on. A piece has a softmax of its
own, from nothing, and leaves a partial result; a second kernel folds these in order. So a result
depends neither on the number of programs nor on other sequences, except that what a sequence shares
with others is cut apart from what it has alone (`shared_prefix`).

The rows of a program are the heads that share a key/value head, filled up to the 16 that tensor
cores take: bound by the bytes of keys and values, it may waste products. A run of blocks that
several sequences begin with is read once for the heads of all of them, 64 rows at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from picert.kernels.combine_pieces import Partial, combine_pieces
from picert.kernels.devices import num_sms
from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work
from picert.kernels.ops import AttentionMeta
from picert.kernels.paged_softmax import (
    LOWEST,
    Softmax,
    block_ids,
    fold_tile,
    room_for,
    room_of,
    softmax_work,
)
from picert.kernels.shared_prefix import PIECE


@triton.jit
def _extent(
    seq, context_len_ptr, covered_ptr, run_ptr, member_ptr, group, has_runs, SHARED: tl.constexpr
):
    """Of run `seq` if SHARED, or of what sequence `seq` has alone: (sequence whose blocks it is,
    pointer to its members, pointer to its size, that size, rows, first position, the one past the
    last, first piece).
    """
    if SHARED:
        run = run_ptr + 5 * seq
        member_ptr += tl.load(run)
        seq = tl.load(member_ptr)
        size_ptr = run + 1
        size = tl.load(size_ptr)
        num_rows = size * group
        begin = tl.load(run + 2)
        end = tl.load(run + 3)
        first_piece = tl.load(run + 4)
    else:
        size_ptr = context_len_ptr + seq
        size = tl.load(size_ptr)
        num_rows = group
        begin = tl.load(covered_ptr + 2 * seq, mask=has_runs != 0, other=0)
        end = size
        first_piece = tl.load(covered_ptr + 2 * seq + 1, mask=has_runs != 0, other=0)
    return seq, member_ptr, size_ptr, size, num_rows, begin, end, first_piece


@triton.jit
def _places(
    first_row, num_rows, seq, kv_head, member_ptr, group, SHARED: tl.constexpr, ROWS: tl.constexpr
):
    """[ROWS]: sequence (int64) and head of each row, and whether there is one."""
    rows = first_row + tl.arange(0, ROWS)
    is_row = rows < num_rows
    if SHARED:
        seqs = tl.load(member_ptr + rows // group, mask=is_row, other=0).to(tl.int64)
    else:
        seqs = tl.zeros((ROWS,), tl.int64) + seq
    return seqs, kv_head * group + rows % group, is_row


@triton.jit
def _softmax_of_piece(
    q,  # [ROWS, DIM]
    k_ptr,  # [N, B, D] of one head
    v_ptr,  # [N, B, D]
    stride_block,
    stride_slot,
    table_ptr,  # [max_blocks]
    begin,
    end,
    head_dim,
    block_shift,
    oldest,  # [ROWS]
    newest,  # [ROWS]
    last_oldest,
    unit,
    cap_unit,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DIM: tl.constexpr,
):
    """(highest, total, sums) over positions begin to end."""
    highest = tl.full((ROWS,), LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, DIM), tl.float32)
    newest = tl.minimum(newest, end - 1)
    blocks = block_ids(table_ptr, begin + tl.arange(0, KEYS), begin, end, block_shift)
    for first in range(begin, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        # Loaded a tile ahead, or each key would wait for the number of its block.
        following = block_ids(table_ptr, keys + KEYS, begin, end, block_shift)
        is_whole = (first + KEYS <= end) & (first >= last_oldest)
        highest, total, sums = fold_tile(
            q, k_ptr, v_ptr, stride_block, stride_slot, blocks, keys, begin, end, head_dim,
            block_shift, oldest, newest, is_whole, unit, cap_unit, highest, total, sums, DIM,
        )  # fmt: skip
        blocks = following
    return highest, total, sums


# Of no use to the compiler, which would make other code for other values.
_TABLES = ("context_len_ptr", "table_ptr", "covered_ptr", "run_ptr", "member_ptr")
_NUMBERS = ("num_seqs", "num_kv_heads", "group", "block_shift", "window", "max_pieces", "has_runs")


@triton.jit(do_not_specialize=(*_TABLES, "stride_table_row", *_NUMBERS))
def _decode(
    q_ptr,  # [S, G * group, D]
    k_cache_ptr,  # [N, B, G, D]
    v_cache_ptr,  # [N, B, G, D]
    out_ptr,  # [S, G * group, D], written if max_pieces is 1
    part_ptr,  # [S, G * group, max_pieces, D] fp32, written if it is not
    stat_ptr,  # [2, S, G * group, max_pieces] fp32, likewise: highest and total
    context_len_ptr,  # [S] int32
    table_ptr,  # [S, max_blocks] int32
    covered_ptr,  # [S, 2] int32, read if has_runs
    run_ptr,  # [R, 5] int32, read if SHARED
    member_ptr,  # [M] int32, likewise
    stride_q_token: tl.int64,
    stride_q_head: tl.int64,
    stride_cache_block: tl.int64,
    stride_cache_slot: tl.int64,
    stride_cache_head: tl.int64,
    stride_out_token: tl.int64,
    stride_out_head: tl.int64,
    stride_table_row: tl.int64,
    num_seqs,
    num_kv_heads,
    group,  # query heads of a key/value head
    head_dim,
    block_shift,
    window,
    unit,
    cap_unit,
    max_pieces,
    has_runs,
    SHARED: tl.constexpr,  # whether program_id(2) is a run, or a sequence
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DIM: tl.constexpr,
):
    """part[s, h, p] = sum over the keys of piece p of exp2(score - highest) * v, in fp32."""
    tiles_of_head = tl.num_programs(0) // num_kv_heads
    kv_head = tl.program_id(0) // tiles_of_head  # neighbours read the same keys
    first_row = tl.program_id(0) % tiles_of_head * ROWS
    seq, member_ptr, size_ptr, size, num_rows, run_begin, run_end, first_piece = _extent(
        tl.program_id(2), context_len_ptr, covered_ptr, run_ptr, member_ptr, group, has_runs, SHARED
    )
    num_pieces = tl.cdiv(run_end - run_begin, PIECE)
    if not SHARED:  # even a sequence that is nothing but runs has a rest
        num_pieces = tl.maximum(num_pieces, 1)
    if (tl.program_id(1) >= num_pieces) | (first_row >= num_rows):
        return
    seqs, heads, is_row = _places(
        first_row, num_rows, seq, kv_head, member_ptr, group, SHARED, ROWS
    )
    dims = tl.arange(0, DIM)[None, :]
    mask = is_row[:, None] & (dims < head_dim)
    q_ptrs = q_ptr + (seqs * stride_q_token + heads * stride_q_head)[:, None] + dims
    q = tl.load(q_ptrs, mask=mask, other=0.0)
    newest = tl.load(context_len_ptr + seqs) - 1
    oldest = tl.maximum(newest - window + 1, 0)
    first_oldest = tl.min(tl.where(is_row, oldest, run_end), axis=0)
    last_oldest = tl.max(oldest, axis=0)
    skipped = 0
    if not SHARED:  # windows of a run's members differ: what one skips another may want
        skipped = tl.maximum(first_oldest - run_begin, 0) // PIECE
    table_ptr += seq.to(tl.int64) * stride_table_row
    k_ptr = k_cache_ptr + kv_head.to(tl.int64) * stride_cache_head
    v_ptr = v_cache_ptr + kv_head.to(tl.int64) * stride_cache_head
    for piece in range(skipped + tl.program_id(1), num_pieces, tl.num_programs(1)):
        begin = tl.maximum(run_begin + piece * PIECE, first_oldest)
        end = tl.minimum(run_begin + (piece + 1) * PIECE, run_end)
        highest, total, sums = _softmax_of_piece(
            q, k_ptr, v_ptr, stride_cache_block, stride_cache_slot, table_ptr, begin, end, head_dim,
            block_shift, oldest, newest, last_oldest, unit, cap_unit, ROWS, KEYS, DIM,
        )  # fmt: skip
        # The places of the rows anew, from a number that the compiler cannot know to be 0: kept
        # over the loop they would spill.
        zero = tl.load(size_ptr, volatile=True) - size
        seqs, heads, is_row = _places(
            first_row + zero, num_rows, seq, kv_head, member_ptr, group, SHARED, ROWS
        )
        mask = is_row[:, None] & (dims < head_dim)
        if (not SHARED) and max_pieces == 1:
            out = (sums / tl.where(total > 0, total, 1.0)[:, None]).to(out_ptr.dtype.element_ty)
            out_ptrs = out_ptr + (seqs * stride_out_token + heads * stride_out_head)[:, None] + dims
            tl.store(out_ptrs, out, mask=mask)
        else:
            num_heads = num_kv_heads * group
            places = (seqs * num_heads + heads) * max_pieces + first_piece + piece
            tl.store(part_ptr + places[:, None] * head_dim + dims, sums, mask=mask)
            tl.store(stat_ptr + places, highest, mask=is_row)
            places += num_seqs.to(tl.int64) * num_heads * max_pieces
            tl.store(stat_ptr + places, total, mask=is_row)


# (rows, room) -> keys, warps, stages: a tile of 16 rows holds 32 KB of keys and values whatever the
# head size, and two more are on their way, in two programs at once. To hide 700 ns at 3.35 TB/s
# takes 18 KB on each of 132 multiprocessors. 64 rows have as many keys as registers allow.
_TILES = {
    (16, 64): (128, 4, 3),
    (16, 128): (64, 4, 3),
    (16, 256): (32, 4, 3),
    (64, 64): (64, 4, 3),
    (64, 128): (32, 4, 3),
    (64, 256): (32, 8, 2),
}
_ROWS = (16, 64)
_SHARED_ROWS = (64,)  # one number, or the bits of a result would depend on how many share
_PROGRAMS_PER_SM = 8  # wanted: twice what may fit, so that the last to begin do not end last


def _configs(*, shared: bool) -> tuple[Config, ...]:
    return tuple(
        Config(
            f"{room}_rows{rows}",
            {"SHARED": shared, "PIECE": PIECE, "ROWS": rows, "KEYS": keys, "DIM": room},
            num_warps=num_warps,
            num_stages=num_stages,
            warps_per_sm=8,
        )
        for (rows, room), (keys, num_warps, num_stages) in _TILES.items()
        if rows in (_SHARED_ROWS if shared else _ROWS)
    )


def _config(kernel: Kernel, room: int, num_rows: int) -> Config:
    """The fewest rows that hold them, or the most there are."""
    fitting = [config for config in kernel.configs if config.constants["DIM"] == room]
    return next((c for c in fitting if num_rows <= c.constants["ROWS"]), fitting[-1])


def _grid(
    config: Config, num_rows: int, num_kv_heads: int, num_pieces: int, num_runs: int, num_sms: int
) -> tuple[int, int, int]:
    """A program for each piece, or fewer that go from one to the next, where that fills the GPU."""
    tiles = num_kv_heads * triton.cdiv(num_rows, config.constants["ROWS"])
    wanted = triton.cdiv(_PROGRAMS_PER_SM * num_sms, max(1, tiles * num_runs))
    return tiles, min(num_pieces, wanted), num_runs


def _work_of(
    kernel: Kernel,
    model: ModelShape,
    num_rows: int,
    num_keys: int,
    num_runs: int,
    queries: int,
    num_sms: int,
) -> Work:
    """Of runs of `num_keys` positions with `num_rows` rows for each key/value head."""
    config, pieces = (
        _config(kernel, room_for(model.head_dim), num_rows),
        triton.cdiv(num_keys, PIECE),
    )
    grid = _grid(config, num_rows, model.num_kv_heads, pieces, num_runs, num_sms)
    rows = config.constants["ROWS"]
    num_scores = triton.cdiv(num_rows, rows) * rows * num_runs * num_keys * model.num_kv_heads
    results = queries * model.num_heads * model.head_dim
    has_parts = pieces > 1 or num_runs < queries
    return Work(
        config,
        num_programs=grid[0] * grid[1] * grid[2],
        bytes=4 * num_runs * num_keys * model.num_kv_heads * model.head_dim
        + (2 + (4 * pieces if has_parts else 2)) * results,
        tensor_flops=4 * num_scores * model.head_dim,
        **softmax_work(num_scores),
    )


def _decode_work(model: ModelShape, step: StepShape, num_sms: int) -> Work | None:
    """Each sequence alone: keys and values of its context, and its partial results."""
    if step.query_len > 1:
        return None
    group = model.num_heads // model.num_kv_heads
    return _work_of(DECODE, model, group, step.context, step.batch, step.batch, num_sms)


def _shared_work(model: ModelShape, step: StepShape, num_sms: int) -> Work | None:
    """A sketch's segments: the first half of the context is one run of the whole batch."""
    if step.query_len > 1 or step.batch == 1:
        return None
    group = model.num_heads // model.num_kv_heads
    return _work_of(SHARED, model, step.batch * group, step.context // 2, 1, step.batch, num_sms)


_ARGUMENTS = {
    **dict.fromkeys(("q_ptr", "k_cache_ptr", "v_cache_ptr", "out_ptr"), "*T:16"),
    **dict.fromkeys(("part_ptr", "stat_ptr"), "*fp32:16"),
    **dict.fromkeys(_TABLES, "*i32"),
    **dict.fromkeys(("stride_q_token", "stride_q_head", "stride_cache_block"), "i64:16"),
    **dict.fromkeys(("stride_cache_slot", "stride_cache_head"), "i64:16"),
    **dict.fromkeys(("stride_out_token", "stride_out_head"), "i64:16"),
    "stride_table_row": "i64",
    **dict.fromkeys(_NUMBERS, "i32"),
    "head_dim": "i32:16",
    **dict.fromkeys(("unit", "cap_unit"), "fp32"),
}
DECODE = Kernel(
    name="paged_decode",
    function=_decode,
    arguments=_ARGUMENTS,
    configs=_configs(shared=False),
    work=_decode_work,
    has_product=True,
)
SHARED = Kernel(
    name="paged_decode_shared",
    function=_decode,
    arguments=_ARGUMENTS,
    configs=_configs(shared=True),
    work=_shared_work,
    has_product=True,
)


def paged_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: AttentionMeta,
    *,
    scale: float,
    sliding_window: int | None,
    soft_cap: float | None,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of q[S, H, D], the last token of each sequence of meta -> [S, H, D].

    Results go to `out` where it is given; a sequence of length 0, which fills up a captured batch,
    gets zeros. Blocks named in meta.shared_prefixes are read once for all that share them.

    For a captured graph: shapes, strides, meta.max_context_len and meta.shared_prefixes.bounds fix
    the launches; what the tensors of meta hold may change within these. Partial results take
    S * H * (D + 2) * 4 bytes for each PIECE of max_context_len and each run of a sequence.
    Raises ConfigError for heads, blocks or strides that have no kernel.
    """
    room = room_of(q, k_cache, v_cache)
    softmax = Softmax.of(scale, sliding_window, soft_cap)
    out = torch.empty_like(q) if out is None else out
    num_seqs, num_heads, head_dim = q.shape
    num_kv_heads, shared = k_cache.shape[2], meta.shared_prefixes
    group = num_heads // num_kv_heads
    max_pieces = triton.cdiv(meta.max_context_len, PIECE)
    if shared is not None:
        max_pieces += shared.bounds.runs_of_sequence  # each may end with less than a piece
    partial = Partial.empty(q, max_pieces)
    tensors = (q, k_cache, v_cache, out, partial.sums, partial.stats)
    strides = (*q.stride()[:2], *k_cache.stride()[:3], *out.stride()[:2])
    sizes = (num_seqs, num_kv_heads, group, head_dim, k_cache.shape[1].bit_length() - 1)
    arguments = (
        *(*tensors, meta.context_lens, meta.block_tables, *_runs(meta)),
        *(*strides, meta.block_tables.stride(0), *sizes, *softmax.arguments),
        *(max_pieces, int(shared is not None)),
    )
    grids = [(DECODE, group, max_pieces, num_seqs)]
    if shared is not None:
        bounds = shared.bounds
        rows = bounds.members_of_run * group
        grids.insert(0, (SHARED, rows, bounds.pieces_of_run, bounds.num_runs))
    for kernel, rows, pieces, num_runs in grids:
        config = _config(kernel, room, rows)
        grid = _grid(config, rows, num_kv_heads, pieces, num_runs, num_sms(q.device))
        kernel.launch(config, grid, *arguments)
    if max_pieces > 1:
        combine_pieces(partial, meta, softmax.window, room, out)
    return out


def _runs(meta: AttentionMeta) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of shared prefixes, or others that are not read."""
    shared = meta.shared_prefixes
    if shared is None:
        return meta.context_lens, meta.context_lens, meta.context_lens
    return shared.covered, shared.runs, shared.members
