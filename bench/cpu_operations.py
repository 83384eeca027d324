"""The CPU decoder's operations on the sizes of real models: each is checked, then timed in passes.

Inputs are random. A linear layer and the pages of attention are there so many times that the caches
do not hold them, as in a step of a whole model; the other operations find theirs in a cache, as
they do there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from picert import _C
from picert.engine.sampler import Sampler, SamplingState, sampling_state
from picert.messages import SamplingParams

Floats = NDArray[np.float32]
Arithmetic = Literal["int8", "fp32"]

LINEAR_ROWS = (1, 4, 16, 128, 512)
OTHER_ROWS = (16, 512)  # one row of these takes less than a barrier
SPAN = 128  # positions; what contexts share is read together in whole spans (attention_kernels.h)
CACHE_BYTES = 80 << 20  # more than a core's share of any cache
MAX_COPIES = 64
PASS_SECONDS, MIN_PASSES, MAX_PASSES = 0.1, 5, 200
EPS = 1e-5
PLAIN_TYPES = {"F16": 2, "BF16": 2, "F32": 4}  # bytes of a value
BLOCKS = {  # values and bytes of a quantised type's block
    **{"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34)},
    **{"Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)},
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer of a model as its file has it."""

    name: str
    dtype: str
    outputs: int
    inputs: int


@dataclass(frozen=True, slots=True)
class CpuModel:
    """Sizes of a decoder, and its matrices that differ."""

    name: str
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    matrices: tuple[Matrix, ...]
    output: Matrix  # of the logits


MODELS = (
    CpuModel(
        *("smollm2-135m", 576, 1536, 9, 3, 64, 30),
        (
            Matrix("gate", "Q4_1", 1536, 576),
            Matrix("down", "Q4_1", 576, 1536),
            Matrix("q", "Q4_1", 576, 576),
        ),
        Matrix("output", "Q8_0", 49152, 576),
    ),
    CpuModel(
        *("qwen2.5-coder-0.5b", 896, 4864, 14, 2, 64, 24),
        (
            Matrix("gate", "Q5_0", 4864, 896),
            Matrix("down", "Q4_K", 896, 4864),
            Matrix("down", "Q6_K", 896, 4864),
        ),
        Matrix("output", "Q8_0", 151936, 896),
    ),
    CpuModel(
        *("qwen2.5-coder-1.5b", 1536, 8960, 12, 2, 128, 28),
        (
            Matrix("gate", "Q4_K", 8960, 1536),
            Matrix("down", "Q4_K", 1536, 8960),
            Matrix("down", "Q6_K", 1536, 8960),
            # Types that none of the three has in a layer of that size:
            *(Matrix("gate", dtype, 8960, 1536) for dtype in ("Q4_0", "Q5_1", "Q8_0", "Q5_K")),
            *(Matrix("gate", dtype, 8960, 1536) for dtype in ("F16", "BF16")),
        ),
        Matrix("output", "Q6_K", 151936, 1536),
    ),
)


@dataclass(frozen=True, slots=True)
class Rig:
    """What operations run on, and the clock."""

    threads: int
    isa: str
    clock: Literal["wall", "thread"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One operation, checked and timed. Bytes and multiply-accumulates are those of one call."""

    config: str
    rows: int
    seconds: list[float]
    num_bytes: int = 0
    num_macs: int = 0
    arithmetic: Arithmetic | None = None
    working_set: int = 0  # bytes that a pass goes through
    clock: str = ""  # the rig's, unless said otherwise
    error: str | None = None  # what is wrong with the result; then there are no seconds


Timed = Callable[[int], tuple[Floats, list[float]]]  # passes -> result, seconds of each


def _timed(draft: Measured, run: Timed, wanted: Callable[[Floats], float]) -> Measured:
    """Check one pass, then time as many as fit. `wanted` says how far off a result is."""
    found, (first, *_) = run(1)
    off = wanted(found)
    if not off <= 1:
        return replace(draft, error=f"wrong result: off by {off:.1f} tolerances")
    passes = min(MAX_PASSES, max(MIN_PASSES, int(PASS_SECONDS / max(first, 1e-7))))
    return replace(draft, seconds=run(passes)[1])


def _off(found: NDArray[np.floating], wanted: NDArray[np.floating], tolerance: float) -> float:
    """The largest error in tolerances, which are relative to the largest value."""
    return float(np.abs(found - wanted).max() / (tolerance * np.abs(wanted).max()))


def _noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _weights(matrix: Matrix) -> NDArray[np.uint8]:
    """Random bytes in which no fp16 is infinite; bf16 and fp32 weights are 0.5 to 1."""
    values = matrix.outputs * matrix.inputs
    if matrix.dtype in PLAIN_TYPES:
        per_value = PLAIN_TYPES[matrix.dtype]
        words = np.random.default_rng(1).integers(0, 1 << 16, values * per_value // 2, np.uint16)
        sign, rest = (0x8000, 0x03FF) if matrix.dtype == "F16" else (0x8000, 0x003F)
        return ((words & (sign | rest)) | (0x3800 if rest == 0x03FF else 0x3F00)).view(np.uint8)
    in_block, num_bytes = BLOCKS[matrix.dtype]
    drawn = np.random.default_rng(1).bytes(values // in_block * num_bytes)
    return np.frombuffer(drawn, np.uint8) & 0xBF


def _first_outputs(matrix: Matrix, data: NDArray[np.uint8], count: int) -> NDArray[np.float64]:
    """The first rows of the matrix, [count, inputs]."""
    row_bytes = len(data) // matrix.outputs
    part = np.ascontiguousarray(data[: count * row_bytes])
    return _C.dequantize(matrix.dtype, (count, matrix.inputs), part).astype(np.float64)


def _linear(
    matrix: Matrix, rig: Rig, rows: tuple[int, ...], two_parts: bool = False
) -> Iterator[Measured]:
    data = _weights(matrix)
    num_copies = max(1, min(MAX_COPIES, CACHE_BYTES // len(data)))
    shape = (matrix.outputs, matrix.inputs)
    layer = _C.TimedLinear(
        *(matrix.dtype, shape, data, num_copies, rig.threads, rig.isa, rig.clock)
    )
    some = _first_outputs(matrix, data, min(64, matrix.outputs))
    for count in rows:
        x = _noise(count, matrix.inputs)
        wanted = x[:16] @ some.T
        draft = Measured(
            f"{matrix.name} {matrix.dtype} [{matrix.outputs}, {matrix.inputs}]",
            *(count, [], layer.bytes, count * matrix.outputs * matrix.inputs * (1 + two_parts)),
            "fp32" if matrix.dtype in PLAIN_TYPES else "int8",
            num_copies * layer.bytes,
        )
        yield _timed(
            draft,
            lambda passes, x=x: layer.run(x, two_parts, passes),
            lambda found, wanted=wanted: _off(found[:16, : len(some)], wanted, 0.02),
        )


def linear(model: CpuModel, rig: Rig) -> Iterator[Measured]:
    """The products with a layer's matrices, activations in int8 already."""
    for matrix in model.matrices:
        yield from _linear(matrix, rig, LINEAR_ROWS)


def logits(model: CpuModel, rig: Rig) -> Iterator[Measured]:
    """The product with the last matrix: activations in two parts, twice the work."""
    yield from _linear(model.output, rig, (1, 16), two_parts=True)


def norm_quantize(model: CpuModel, rig: Rig) -> Iterator[Measured]:
    """RMS norm and the result in int8."""
    for rows in OTHER_ROWS:
        x, weight = _noise(rows, model.hidden), _noise(model.hidden, seed=1)
        wanted = x / np.sqrt((x.astype(float) ** 2).mean(axis=1, keepdims=True) + EPS) * weight
        num_bytes = x.nbytes + 2 * x.size  # a group of 32 is a cache line
        yield _timed(
            Measured(f"[{rows}, {model.hidden}]", rows, [], num_bytes, working_set=num_bytes),
            lambda passes, x=x, w=weight: _C.time_norm_quantize(
                *(x, w, EPS, passes, rig.threads, rig.isa, rig.clock)
            ),
            lambda found, wanted=wanted: _off(found, wanted, 1 / 127),
        )


def silu_quantize(model: CpuModel, rig: Rig) -> Iterator[Measured]:
    """silu(gate) * up and the result in int8."""
    for rows in OTHER_ROWS:
        gate, up = (_noise(rows, model.intermediate, seed=seed) for seed in (0, 1))
        wanted = gate / (1 + np.exp(-gate.astype(float))) * up
        num_bytes = gate.nbytes + up.nbytes + 2 * gate.size
        yield _timed(
            Measured(f"[{rows}, {model.intermediate}]", rows, [], num_bytes, working_set=num_bytes),
            lambda passes, gate=gate, up=up: _C.time_silu_quantize(
                *(gate, up, passes, rig.threads, rig.isa, rig.clock)
            ),
            lambda found, wanted=wanted: _off(found, wanted, 1 / 127),
        )


def rope_store(model: CpuModel, rig: Rig) -> Iterator[Measured]:
    """Keys turned by their positions and stored with their values as fp16."""
    heads, dim = model.num_kv_heads, model.head_dim
    for rows in OTHER_ROWS:
        k, v = (_noise(rows, heads, dim, seed=seed) for seed in (0, 1))
        angles = _noise(rows, dim // 2, seed=2)
        cos, sin = np.cos(angles), np.sin(angles)
        low, high = k[..., : dim // 2], k[..., dim // 2 :]
        c, s = cos[:, None], sin[:, None]
        wanted = np.concatenate((low * c - high * s, high * c + low * s), axis=-1)
        num_bytes = k.nbytes + v.nbytes + 2 * (k.size + v.size)
        yield _timed(
            Measured(f"[{rows}, {heads}, {dim}]", rows, [], num_bytes, working_set=num_bytes),
            lambda passes, k=k, v=v, cos=cos, sin=sin: _C.time_rope_store(
                *(k, v, cos, sin, 16, passes, rig.threads, rig.isa, rig.clock)
            ),
            lambda found, wanted=wanted: _off(found, wanted, 1e-5),
        )


@dataclass(frozen=True, slots=True)
class Contexts:
    """Sequences of one length that may begin with the same tokens."""

    name: str
    num_seqs: int
    context: int  # tokens of each
    new: int  # of these, computed in the step
    shared: int = 0  # of these, the same in all


CONTEXTS = (
    Contexts("decode", 1, 128, 1),
    Contexts("decode", 1, 2048, 1),
    Contexts("decode", 16, 128, 1),
    Contexts("decode", 16, 528, 1),
    Contexts("decode, 512 shared", 16, 528, 1, shared=512),
    Contexts("prefill", 1, 512, 512),
    Contexts("prefill", 1, 2048, 512),
)
BLOCK_SIZE = 16


def attention(
    model: CpuModel, rig: Rig, contexts: tuple[Contexts, ...] = CONTEXTS
) -> Iterator[Measured]:
    """Attention over fp16 pages, all layers in turn; times are of one layer."""
    for case in contexts:
        yield _attention(model, case, rig)


def _attention(model: CpuModel, case: Contexts, rig: Rig) -> Measured:
    heads, dim = model.num_kv_heads, model.head_dim
    table = _block_tables(case)
    shape = (int(table.max()) + 1, BLOCK_SIZE, heads, dim)
    k, v = (_noise(*shape, seed=seed) for seed in (1, 2))
    q = _noise(case.num_seqs * case.new, model.num_heads, dim)
    starts = np.arange(case.num_seqs + 1, dtype=np.int32) * case.new
    lens = np.full(case.num_seqs, case.context, np.int32)
    scale = dim**-0.5
    read = case.shared + case.num_seqs * (case.context - case.shared)
    seen = case.new * (case.context - case.new) + case.new * (case.new + 1) // 2
    num_bytes = 2 * read * heads * dim * 2

    def wanted(found: Floats) -> float:
        """The last token of the last sequence, against float64."""
        pages = [
            cache[table[-1]].reshape(-1, heads, dim)[: case.context].astype(np.float16)
            for cache in (k, v)
        ]
        keys, values = (np.repeat(p.astype(float), model.num_heads // heads, 1) for p in pages)
        scores = np.einsum("hd,chd->hc", q[-1], keys) * scale
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return _off(found[-1], np.einsum("hc,chd->hd", weights, values), 1e-3)

    return _timed(
        Measured(
            f"{case.name} {case.num_seqs} x {case.new} @ {case.context}",
            *(len(q), [], num_bytes, case.num_seqs * seen * model.num_heads * dim * 2, "fp32"),
            num_bytes * model.num_layers,
        ),
        lambda passes: _C.time_attention(
            *(q, k, v, starts, lens, table, scale, "fp16", model.num_layers),
            *(passes, rig.threads, rig.isa, rig.clock),
        ),
        wanted,
    )


def _block_tables(case: Contexts) -> NDArray[np.int32]:
    """[num_seqs, blocks]; blocks lie in no order."""
    shared, each = case.shared // BLOCK_SIZE, -(-case.context // BLOCK_SIZE)
    own = each - shared
    order = np.random.default_rng(3).permutation(shared + case.num_seqs * own).astype(np.int32)
    table = np.empty((case.num_seqs, each), np.int32)
    table[:, :shared] = order[:shared]
    table[:, shared:] = order[shared:].reshape(case.num_seqs, own)
    return table


def sample(model: CpuModel, rig: Rig) -> Iterator[Measured]:
    """A token for each row of logits, with its log-probability. Always by the wall clock."""
    vocab = model.output.outputs
    team = _C.ThreadPool(rig.threads)
    sampler = Sampler(vocab, team, "" if rig.isa == "avx2_vnni" else rig.isa)
    kinds = {"greedy": SamplingParams(temperature=0.0), "top-p": SamplingParams(top_p=0.95)}
    for name, params in kinds.items():
        for rows in (1, 16):
            values = 3 * _noise(rows, vocab)
            states = [sampling_state(params, [], frozenset(), seed) for seed in range(rows)]
            yield _timed(
                Measured(
                    *(f"{name} [{rows}, {vocab}]", rows, [], values.nbytes),
                    working_set=values.nbytes,
                    clock="wall",
                ),
                lambda passes, values=values, states=states: _sampled(
                    sampler, values, states, passes
                ),
                lambda found, values=values, is_greedy=name == "greedy": _sampled_off(
                    found, values, is_greedy
                ),
            )


def _sampled(
    sampler: Sampler, values: Floats, states: list[SamplingState], passes: int
) -> tuple[Floats, list[float]]:
    """(token, log-probability) of each row after the last pass."""
    seconds = []
    for _ in range(passes):
        start = time.perf_counter()
        drawn = sampler.sample(values, states)
        seconds.append(time.perf_counter() - start)
    rows = [(t.token_id, t.logprob) for t in drawn if t is not None]
    return np.array(rows, np.float32), seconds


def _sampled_off(found: Floats, values: Floats, is_greedy: bool) -> float:
    wide = values.astype(float)
    ids = found[:, 0].astype(int)
    if len(ids) != len(values) or (is_greedy and (ids != wide.argmax(axis=1)).any()):
        return float("inf")
    total = np.log(np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)) + wide.max(axis=1)
    return float(np.abs(found[:, 1] - (wide[np.arange(len(ids)), ids] - total)).max() / 1e-3)


def barrier(_: CpuModel, rig: Rig) -> Iterator[Measured]:
    """All threads meet once, by the wall clock; a layer has ten or eleven of these."""
    yield Measured(f"{rig.threads} threads", 0, _C.time_barrier(50, rig.threads), clock="wall")


OPERATIONS: Mapping[str, Callable[[CpuModel, Rig], Iterator[Measured]]] = {
    "linear": linear,
    "logits": logits,
    "norm_quantize": norm_quantize,
    "rope_store": rope_store,
    "silu_quantize": silu_quantize,
    "attention": attention,
    "sample": sample,
    "barrier": barrier,
}
