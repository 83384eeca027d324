"""Attention of many queries a sequence over its paged cache: prompts, whole or in chunks.

Keys and values all come from the cache, in which the step's own have been stored before. The rows
of a program are pairs of a query and one of the heads that share a key/value head, so that a key is
read once for all of them and any ratio of heads fills the tensor cores.

A row folds the same tiles of keys in the same order whatever its chunk and neighbours: tiles are
anchored at position 0, and one of which a row sees nothing changes no bit of it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from picert.kernels.devices import num_sms
from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work
from picert.kernels.ops import AttentionMeta
from picert.kernels.paged_softmax import (
    LOWEST,
    ROOMS,
    Softmax,
    block_ids,
    fold_tile,
    room_for,
    room_of,
    softmax_work,
)

_SEQS = 128  # sequences whose starts a program reads at once to find its own


@triton.jit
def _sequence_of(tile, query_start_ptr, num_seqs, group, ROWS: tl.constexpr, SEQS: tl.constexpr):
    """(sequence, its first row in the tile).

    Sequence s has the tiles from query_start[s] * group // ROWS + s on: enough, without a list.
    """
    num_begun = 0
    for first in range(0, num_seqs, SEQS):
        ids = first + tl.arange(0, SEQS)
        start = tl.load(query_start_ptr + ids, mask=ids < num_seqs, other=0)
        has_begun = (start * group // ROWS + ids <= tile) & (ids < num_seqs)
        num_begun += tl.sum(has_begun.to(tl.int32), axis=0)
    seq = num_begun - 1
    start = tl.load(query_start_ptr + seq)
    return seq, (tile - (start * group // ROWS + seq)) * ROWS


# Of no use to the compiler, which would make other code for other values.
_TABLES = ("query_start_ptr", "context_len_ptr", "table_ptr")
_NUMBERS = ("num_seqs", "group", "block_shift", "window")


@triton.jit(do_not_specialize=(*_TABLES, "stride_table_row", *_NUMBERS))
def _prefill(
    q_ptr,  # [T, G * group, D]
    k_cache_ptr,  # [N, B, G, D]
    v_cache_ptr,  # [N, B, G, D]
    out_ptr,  # [T, G * group, D]
    query_start_ptr,  # [S + 1] int32
    context_len_ptr,  # [S] int32
    table_ptr,  # [S, max_blocks] int32
    stride_q_token: tl.int64,
    stride_q_head: tl.int64,
    stride_cache_block: tl.int64,
    stride_cache_slot: tl.int64,
    stride_cache_head: tl.int64,
    stride_out_token: tl.int64,
    stride_out_head: tl.int64,
    stride_table_row: tl.int64,
    num_seqs,
    group,  # query heads of a key/value head
    head_dim,
    block_shift,
    window,
    unit,
    cap_unit,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DIM: tl.constexpr,
    SEQS: tl.constexpr,
):
    """out[t, h] = sum over the keys that t sees of softmax(score(q[t, h] . k)) * v."""
    kv_head = tl.program_id(0).to(tl.int64)
    # The last tiles of a sequence have the most keys: begun first, they do not end last.
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    seq, first_row = _sequence_of(tile, query_start_ptr, num_seqs, group, ROWS, SEQS)
    start = tl.load(query_start_ptr + seq)
    num_queries = tl.load(query_start_ptr + seq + 1) - start
    num_rows = num_queries * group
    if first_row >= num_rows:
        return
    dims = tl.arange(0, DIM)[None, :]
    rows = first_row + tl.arange(0, ROWS)
    token = (start + rows // group).to(tl.int64)[:, None]
    head = kv_head * group + (rows % group)[:, None]
    mask = (rows < num_rows)[:, None] & (dims < head_dim)
    q = tl.load(q_ptr + token * stride_q_token + head * stride_q_head + dims, mask=mask, other=0.0)

    before = tl.load(context_len_ptr + seq) - num_queries  # position of the first query
    newest = before + rows // group
    oldest = newest - window + 1
    first_newest = before + first_row // group
    last_newest = before + tl.minimum((first_row + ROWS - 1) // group, num_queries - 1)
    begin = tl.maximum(first_newest - window + 1, 0)
    end = last_newest + 1
    table = table_ptr + seq.to(tl.int64) * stride_table_row
    k_ptr = k_cache_ptr + kv_head * stride_cache_head
    v_ptr = v_cache_ptr + kv_head * stride_cache_head
    highest = tl.full((ROWS,), LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, DIM), tl.float32)
    first_tile = begin // KEYS * KEYS
    blocks = block_ids(table, first_tile + tl.arange(0, KEYS), begin, end, block_shift)
    for first in range(first_tile, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        # Loaded a tile ahead, or each key would wait for the number of its block.
        following = block_ids(table, keys + KEYS, begin, end, block_shift)
        is_whole = (first + KEYS - 1 <= first_newest) & (first > last_newest - window)
        highest, total, sums = fold_tile(
            q, k_ptr, v_ptr, stride_cache_block, stride_cache_slot, blocks, keys, begin, end,
            head_dim, block_shift, oldest, newest, is_whole, unit, cap_unit,
            highest, total, sums, DIM,
        )  # fmt: skip
        blocks = following

    # The places of the rows anew, from a number that the compiler cannot know to be 0: kept over
    # the loop they take 48 registers of a thread, and spill on sm_80.
    first_row += tl.load(query_start_ptr + seq, volatile=True) - start
    rows = first_row + tl.arange(0, ROWS)
    token = (start + rows // group).to(tl.int64)[:, None]
    head = kv_head * group + (rows % group)[:, None]
    mask = (rows < num_rows)[:, None] & (dims < head_dim)
    total = tl.where(total > 0, total, 1.0)  # rows past the last may see nothing
    out = (sums / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * stride_out_token + head * stride_out_head + dims, out, mask=mask)


# room -> keys of a tile and depth of the pipeline of 128 rows. With heads of 128, sums and scores
# take 96 registers of a thread and the queries, where they are an operand in registers (sm_80), 64
# more; with heads of 256 the sums alone take 128, which leaves room for 32 keys.
_TILES = {64: (64, 3), 128: (64, 3), 256: (32, 2)}
# 128 rows ask half as much of the L2 cache as 64. Those are for steps without 128 rows for each
# multiprocessor; two programs of them fit, with one tile on its way to each.
_ROWS = (64, 128)


def _configs() -> tuple[Config, ...]:
    """A warp has 16 rows, so its softmax needs no other; but 64 rows of 256 spill in 4 warps."""
    return tuple(
        Config(
            f"{room}_rows{rows}",
            {"ROWS": rows, "KEYS": _TILES[room][0], "DIM": room, "SEQS": _SEQS},
            num_warps=8 if room == ROOMS[-1] else rows // 16,
            num_stages=_TILES[room][1] if rows == _ROWS[-1] else 2,
            warps_per_sm=8,
        )
        for room in ROOMS
        for rows in _ROWS
    )


def _config(room: int, num_rows: int, longest: int, num_kv_heads: int, num_sms: int) -> Config:
    """For `num_rows` rows of all sequences, of which one has `longest` at most."""
    few, many = _ROWS
    has_many = longest > few and triton.cdiv(num_rows, many) * num_kv_heads >= num_sms
    return KERNEL.config(f"{room}_rows{many if has_many else few}")


def _num_tiles(config: Config, num_rows: int, num_seqs: int) -> int:
    """At most: what _sequence_of counts to."""
    return num_rows // config.constants["ROWS"] + num_seqs


def _work(model: ModelShape, step: StepShape, num_sms: int) -> Work | None:
    """Queries read, results written, and keys and values of each sequence once."""
    if step.query_len == 1:
        return None
    group = model.num_heads // model.num_kv_heads
    num_rows = step.query_len * group
    config = _config(
        room_for(model.head_dim), step.batch * num_rows, num_rows, model.num_kv_heads, num_sms
    )
    values = (
        2 * step.num_tokens * model.num_heads + 2 * step.batch * step.context * model.num_kv_heads
    )
    unseen = step.query_len * (step.query_len - 1) // 2  # keys behind each query, summed up
    num_scores = step.batch * model.num_heads * (step.query_len * step.context - unseen)
    tiles = step.batch * triton.cdiv(num_rows, config.constants["ROWS"])
    return Work(
        config,
        num_programs=tiles * model.num_kv_heads,
        bytes=2 * values * model.head_dim,
        tensor_flops=4 * num_scores * model.head_dim,
        **softmax_work(num_scores),
    )


KERNEL = Kernel(
    name="paged_prefill",
    function=_prefill,
    arguments={
        **dict.fromkeys(("q_ptr", "k_cache_ptr", "v_cache_ptr", "out_ptr"), "*T:16"),
        **dict.fromkeys(_TABLES, "*i32"),
        **dict.fromkeys(("stride_q_token", "stride_q_head", "stride_cache_block"), "i64:16"),
        **dict.fromkeys(("stride_cache_slot", "stride_cache_head"), "i64:16"),
        **dict.fromkeys(("stride_out_token", "stride_out_head"), "i64:16"),
        "stride_table_row": "i64",
        **dict.fromkeys(_NUMBERS, "i32"),
        "head_dim": "i32:16",
        **dict.fromkeys(("unit", "cap_unit"), "fp32"),
    },
    configs=_configs(),
    work=_work,
    has_product=True,
)


def paged_prefill(
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
    """Causal attention of q[T, H, D] over each sequence's pages -> [T, H, D], as `Ops.attention`.

    Where `out` is given, the rows of meta's sequences are written to it, and no others: meta may
    describe some of the sequences that have rows in q. A sequence may have no row at all.

    For a captured graph: shapes, strides and meta.max_query_len fix the launch; what the tensors of
    meta hold may change. Raises ConfigError for heads, blocks or strides that have no kernel.
    """
    room = room_of(q, k_cache, v_cache)
    softmax = Softmax.of(scale, sliding_window, soft_cap)
    out = torch.empty_like(q) if out is None else out
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, num_seqs = k_cache.shape[2], len(meta.context_lens)
    group = num_heads // num_kv_heads
    num_rows = num_tokens * group
    config = _config(room, num_rows, meta.max_query_len * group, num_kv_heads, num_sms(q.device))
    grid = (num_kv_heads, _num_tiles(config, num_rows, num_seqs) if num_seqs else 0)
    tensors = (q, k_cache, v_cache, out, meta.query_start, meta.context_lens, meta.block_tables)
    strides = (
        *q.stride()[:2],
        *k_cache.stride()[:3],
        *out.stride()[:2],
        meta.block_tables.stride(0),
    )
    sizes = (num_seqs, group, head_dim, k_cache.shape[1].bit_length() - 1)
    KERNEL.launch(config, grid, *tensors, *strides, *sizes, *softmax.arguments)
    return out
