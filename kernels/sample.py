"""One token for each row of logits: softmax at a temperature, top-k, min-p, top-p, one draw.

What may be drawn is what the engine's sampler says: tokens that tie with the last of the top k are
all in; min-p is a share of the heaviest weight; top-p takes the fewest of what is left, heaviest
first and ties by token id. The draw walks the tokens in order of id with the one number that it is
given for the row: draw n of the request's seed. So a text does not depend on its neighbours.

No sort: both borders are found by a search over the order-preserving bits of the logits, four bits
a pass. One program per row, whose logits stay in the L2 cache between passes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from picert.errors import ConfigError
from picert.kernels.launch import Config, Kernel, ModelShape, StepShape, Work
from picert.kernels.ops import SamplingRows

_BLOCK = 1024  # logits of a step; more of them, or more warps, spill the 16 sums of the search
_SMALLEST_TEMPERATURE = 1e-6  # below, fp32 overflows; it is greedy long before


@triton.jit
def _keys(x):
    """uint32 in the order of the floats: negative ones have all bits turned, others the first."""
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(x < 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def _border(
    row_ptr, vocab, highest, inverse, floor, goal, COUNT: tl.constexpr, BLOCK: tl.constexpr
):
    """The largest key from which on the tokens with at least `floor` add up to `goal`.

    Each adds 1 if COUNT, else its weight exp((x - highest) * inverse).
    """
    border = tl.zeros((1,), tl.uint32)
    digits = tl.arange(0, 16).to(tl.uint32)
    for i in range(8):
        tried = border | (digits << (28 - 4 * i))
        mass = tl.zeros((16,), tl.float32)
        for start in range(0, vocab, BLOCK):
            ids = start + tl.arange(0, BLOCK)
            x = tl.load(row_ptr + ids, mask=ids < vocab, other=float("-inf"))
            keys = _keys(x)
            counts = (keys >= floor) & (ids < vocab)
            if COUNT:
                value = counts.to(tl.float32)
            else:
                value = tl.where(counts, tl.exp((x - highest) * inverse), 0.0)
            mass += tl.sum(tl.where(keys[:, None] >= tried[None, :], value[:, None], 0.0), axis=0)
        # Digit 0 is where the search stands: enough by its last round, or by the first if all is.
        enough = (mass >= goal) | (digits == 0)
        border = tl.max(tl.where(enough, tried, 0), axis=0, keep_dims=True)
    return border


@triton.jit
def _sample(
    logits_ptr,  # [T, vocab] fp32
    inverse_ptr,  # [T] fp32, 1 / temperature; 0 is greedy
    top_k_ptr,  # [T] int32, 0 for all
    top_p_ptr,  # [T] fp32
    min_p_ptr,  # [T] fp32
    uniform_ptr,  # [T] fp32 in [0, 1)
    token_ptr,  # [T] int32
    logprob_ptr,  # [T] fp32
    stride_logits_row: tl.int64,
    vocab,
    BLOCK: tl.constexpr,
):
    """token = the first t with sum(w[:t + 1]) > uniform * sum(w), w = exp((x - max) / temperature)
    for tokens inside top-k, min-p and top-p, 0 for others; -1 where max is not finite.
    logprob = x - max - log(sum(exp(x - max))) of the token, whatever the temperature.
    """
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride_logits_row
    inverse = tl.load(inverse_ptr + row)
    highest, best = _highest(row_ptr, vocab, BLOCK)
    token = best
    if (best >= 0) & (inverse > 0):
        floor = tl.zeros((1,), tl.uint32)
        top_k = tl.load(top_k_ptr + row)
        if (top_k > 0) & (top_k < vocab):
            goal = top_k.to(tl.float32)
            floor = _border(row_ptr, vocab, highest, inverse, floor, goal, True, BLOCK)
        min_p = tl.load(min_p_ptr + row)
        if min_p > 0:
            least = highest + tl.log(min_p) / inverse
            floor = tl.maximum(floor, _keys(tl.zeros((1,), tl.float32) + least))
        top_p = tl.load(top_p_ptr + row)
        total = _total(row_ptr, vocab, highest, inverse, floor, BLOCK)
        goal = total * top_p
        border = floor
        if top_p < 1:
            border = _border(row_ptr, vocab, highest, inverse, floor, goal, False, BLOCK)
            border = tl.maximum(border, floor)
        uniform = tl.load(uniform_ptr + row)
        token = _draw(row_ptr, vocab, highest, inverse, border, goal, uniform, top_p < 1, BLOCK)
    tl.store(token_ptr + row, token)
    if token >= 0:
        floor = tl.zeros((1,), tl.uint32)
        total = _total(row_ptr, vocab, highest, 1.0, floor, BLOCK)
        logprob = tl.load(row_ptr + token) - highest - tl.log(total)
        tl.store(logprob_ptr + row, logprob)


@triton.jit
def _highest(row_ptr, vocab, BLOCK: tl.constexpr):
    """(largest logit, its first id), or id -1 if any is NaN or the largest is infinite."""
    highest = float("-inf")
    best = -1
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row_ptr + ids, mask=ids < vocab, other=float("-inf"))
        x = tl.where(x == x, x, float("inf"))
        largest = tl.max(x, axis=0)
        first = tl.min(tl.where(x == largest, ids, 0x7FFFFFFF), axis=0)
        best = tl.where(largest > highest, first, best)
        highest = tl.maximum(highest, largest)
    return highest, tl.where(highest < float("inf"), best, -1)


@triton.jit
def _total(row_ptr, vocab, highest, inverse, floor, BLOCK: tl.constexpr):
    """Sum of the weights of tokens from `floor` on."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row_ptr + ids, mask=ids < vocab, other=float("-inf"))
        total += tl.where(_keys(x) >= floor, tl.exp((x - highest) * inverse), 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _draw(row_ptr, vocab, highest, inverse, border, goal, uniform, is_nucleus, BLOCK: tl.constexpr):
    """The token where the running sum of weights passes the drawn share of their sum."""
    above = _total(row_ptr, vocab, highest, inverse, border + 1, BLOCK)
    # Tokens that tie at the border are let in by id, as many as top-p still lacks.
    wanted = tl.where(is_nucleus, goal, float("inf"))
    target = 0.0
    token = -1
    for is_walk in range(2):  # the first adds up, the second stops at the target
        passed = 0.0
        tied = 0.0
        for start in range(0, vocab, BLOCK):
            ids = start + tl.arange(0, BLOCK)
            x = tl.load(row_ptr + ids, mask=ids < vocab, other=float("-inf"))
            weight = tl.exp((x - highest) * inverse)
            keys = _keys(x)
            of_tie = tl.where(keys == border, weight, 0.0)
            before = tied + tl.cumsum(of_tie, axis=0) - of_tie
            is_kept = (keys > border) | ((keys == border) & (above + before < wanted))
            weight = tl.where(is_kept & (ids < vocab), weight, 0.0)
            sums = passed + tl.cumsum(weight, axis=0)
            if is_walk == 1:
                hit = (weight > 0) & (sums > target)
                first = tl.min(tl.where(hit, ids, 0x7FFFFFFF), axis=0)
                last = tl.max(tl.where(weight > 0, ids, -1), axis=0)
                # Until the sum is passed, the last token that was kept: past the end by rounding.
                token = tl.where(passed > target, token, tl.where(first < vocab, first, last))
            passed += tl.sum(weight, axis=0)
            tied += tl.sum(of_tie, axis=0)
        target = passed * uniform
    return token


def _work(model: ModelShape, step: StepShape, _: int) -> Work:
    """Logits of one token of each sequence read once; later passes find them in the L2 cache."""
    values = step.batch * model.vocab
    return Work(KERNEL.configs[0], num_programs=step.batch, bytes=4 * values, flops=4 * values)


KERNEL = Kernel(
    name="sample",
    function=_sample,
    arguments={
        **dict.fromkeys(("logits_ptr", "inverse_ptr"), "*fp32:16"),
        "top_k_ptr": "*i32:16",
        **dict.fromkeys(("top_p_ptr", "min_p_ptr", "uniform_ptr"), "*fp32:16"),
        "token_ptr": "*i32:16",
        "logprob_ptr": "*fp32:16",
        "stride_logits_row": "i64:16",
        "vocab": "i32:16",
    },
    configs=(Config(str(_BLOCK), {"BLOCK": _BLOCK}, num_warps=4, warps_per_sm=8),),
    work=_work,
    dtypes=("fp32",),
)


def sample(logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor]:
    """A token id for each row of logits[T, V] in fp32 -> [T] int32, and its log-probability [T].

    Id -1 for a row that has a NaN, or whose largest logit is infinite. Raises ConfigError for
    another dtype.
    """
    if logits.dtype != torch.float32 or logits.stride(1) != 1:
        raise ConfigError(
            f"logits are {logits.dtype} with strides {logits.stride()}, rows of consecutive "
            "float32 wanted"
        )
    token_ids = torch.empty(len(logits), dtype=torch.int32, device=logits.device)
    logprobs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    is_greedy = rows.temperature <= 0
    wide = rows.temperature.clamp(min=_SMALLEST_TEMPERATURE)
    inverse = torch.where(is_greedy, torch.zeros_like(wide), 1 / wide)
    columns = (inverse, rows.top_k, rows.top_p, rows.min_p, rows.uniform)
    sizes = (logits.stride(0), logits.shape[1])
    KERNEL.launch(KERNEL.configs[0], (len(logits),), logits, *columns, token_ids, logprobs, *sizes)
    return token_ids, logprobs
