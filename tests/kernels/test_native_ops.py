"""The C++ kernels of every instruction set against plain torch in float64, on awkward shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from picert import _C
from picert.kernels.native_ops import (
    NativeOps,
    PagedContext,
    QuantizedMatrix,
    dequantize,
    supported_isas,
)
from picert.kernels.ops import AttentionMeta
from picert.kernels.torch_ops import TorchOps

ISAS = supported_isas()
ORACLE = TorchOps()
FLOAT_TYPES = ["F32", "F16", "BF16"]
ROW_TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]  # that the gguf package can write
Floats = NDArray[np.float32]
each_isa = pytest.mark.parametrize("isa", ISAS)


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Floats:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def wide(x: Floats) -> torch.Tensor:
    return torch.from_numpy(x).double()


def assert_close(got: Floats, wanted: torch.Tensor, tolerance: float) -> None:
    """Relative to the largest value where that exceeds one."""
    difference = (wide(got) - wanted).abs().max().item()
    assert difference <= tolerance * max(1.0, wanted.abs().max().item())


@each_isa
@pytest.mark.parametrize("size", [1, 7, 16, 33, 576, 1536])
def test_rms_norm(isa: str, size: int) -> None:
    x, weight = noise(3, size, scale=4.0), noise(size, seed=1)
    wanted = ORACLE.rms_norm(wide(x), wide(weight), 1e-5)
    assert_close(NativeOps(isa).rms_norm(x, weight, 1e-5), wanted, 2e-6)


@each_isa
@pytest.mark.parametrize("size", [1, 15, 31, 160])
def test_gated_activations(isa: str, size: int) -> None:
    gate, up = noise(2, size, scale=5.0), noise(2, size, seed=1)
    ops = NativeOps(isa)
    assert_close(ops.silu_mul(gate, up), ORACLE.silu_mul(wide(gate), wide(up)), 2e-6)
    assert_close(ops.gelu_mul(gate, up), ORACLE.gelu_mul(wide(gate), wide(up)), 2e-6)


@each_isa
def test_gated_activations_of_extreme_gates_are_exact(isa: str) -> None:
    gate = np.array([[-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30]], np.float32)
    up = np.ones_like(gate)
    wanted = np.maximum(gate, 0.0)
    for got in (NativeOps(isa).silu_mul(gate, up), NativeOps(isa).gelu_mul(gate, up)):
        np.testing.assert_allclose(got, wanted, atol=1e-30)


@each_isa
def test_silu_is_accurate_over_the_whole_range(isa: str) -> None:
    gate = np.linspace(-80, 80, 20001, dtype=np.float32)[None]
    got = NativeOps(isa).silu_mul(gate, np.ones_like(gate))
    wanted = torch.nn.functional.silu(wide(gate))
    relative = ((wide(got) - wanted) / wanted.abs().clamp_min(1e-300)).abs()
    assert relative[wanted != 0].max().item() < 1e-6


@each_isa
def test_soft_cap(isa: str) -> None:
    x = noise(2, 37, scale=40.0)
    assert_close(NativeOps(isa).soft_cap(x, 30.0), 30.0 * torch.tanh(wide(x) / 30.0), 1e-6)


@each_isa
@pytest.mark.parametrize("head_dim", [2, 16, 64, 80])
def test_rope_rotates_pairs_half_a_head_apart(isa: str, head_dim: int) -> None:
    q, angles = noise(3, 2, head_dim), noise(3, head_dim // 2, seed=1)
    cos, sin = np.cos(angles), np.sin(angles)
    wanted, k = wide(q), wide(noise(3, 1, head_dim))
    ORACLE.rope_inplace(wanted, k, wide(cos), wide(sin))
    assert_close(NativeOps(isa).rope(q, cos, sin), wanted, 1e-6)


def matrix(dtype: str, outputs: int, inputs: int) -> QuantizedMatrix:
    weight = noise(outputs, inputs, seed=2, scale=inputs**-0.5)
    data = quants.quantize(weight, GGMLQuantizationType[dtype])
    return QuantizedMatrix(dtype, (outputs, inputs), data.view(np.uint8).reshape(-1))


def k_quant(dtype: str, outputs: int, inputs: int) -> QuantizedMatrix:
    """Random codes with sane scales: the gguf package reads K-quants and does not write them."""
    block_bytes, scales_at = {"Q4_K": (144, (0, 2)), "Q5_K": (176, (0, 2)), "Q6_K": (210, (208,))}[
        dtype
    ]
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (outputs * inputs // 256, block_bytes), dtype=np.uint8)
    for at in scales_at:
        scale = (rng.uniform(0.5, 1.0, len(blocks)) * inputs**-0.5 / 500).astype(np.float16)
        blocks[:, at : at + 2] = scale[:, None].view(np.uint8)
    return QuantizedMatrix(dtype, (outputs, inputs), blocks.reshape(-1))


def any_matrix(dtype: str, outputs: int, inputs: int) -> QuantizedMatrix:
    return (k_quant if dtype.endswith("_K") else matrix)(dtype, outputs, inputs)


@pytest.mark.parametrize("dtype", [*FLOAT_TYPES, *ROW_TYPES, "Q4_K", "Q5_K", "Q6_K"])
def test_dequantize_equals_the_gguf_package(dtype: str) -> None:
    weight = any_matrix(dtype, 5, 512)
    wanted = quants.dequantize(weight.data.reshape(5, -1), GGMLQuantizationType[dtype])
    np.testing.assert_allclose(dequantize(weight), wanted, rtol=1e-6, atol=1e-9)


def quantized(weight: Floats, to: str, source: str = "F32") -> QuantizedMatrix:
    data = quants.quantize(weight, GGMLQuantizationType[source])
    blocks = _C.quantize_weights(source, weight.shape, data.view(np.uint8).reshape(-1), to, 2)
    return QuantizedMatrix(to, weight.shape, blocks)


def test_weights_in_8_bits_are_those_of_the_gguf_package() -> None:
    weight = noise(9, 96, seed=2)
    weight[3, 32:64] = 0.0
    wanted = quants.quantize(weight, GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(quantized(weight, "Q8_0").data, wanted.reshape(-1))


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
def test_weights_in_4_bits_are_nearer_than_those_of_the_gguf_package(source: str) -> None:
    weight = noise(40, 256, seed=2)
    weight[3, 32:64] = 0.25  # a range of nothing
    theirs = quants.quantize(weight, GGMLQuantizationType.Q4_1)
    wanted = np.square(quants.dequantize(theirs, GGMLQuantizationType.Q4_1) - weight).mean()
    ours = dequantize(quantized(weight, "Q4_1", source))
    assert np.square(ours - weight).mean() < 0.95 * wanted
    np.testing.assert_allclose(ours[3, 32:64], 0.25, rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "inputs", "to", "words"),
    [
        ("Q8_0", 64, "Q4_1", "quantised already"),
        ("F32", 48, "Q8_0", "rows must be a multiple of 32"),
        ("F32", 64, "Q4_0", "to Q4_1 or Q8_0 only"),
    ],
)
def test_weights_that_cannot_be_quantised_are_refused(
    dtype: str, inputs: int, to: str, words: str
) -> None:
    weight = matrix(dtype, 4, inputs)
    with pytest.raises(ValueError, match=words):
        _C.quantize_weights(dtype, weight.shape, weight.data, to)


@each_isa
@pytest.mark.parametrize("dtype", [*FLOAT_TYPES, *ROW_TYPES, "Q4_K", "Q5_K", "Q6_K"])
def test_linear_with_bias_over_odd_shapes(isa: str, dtype: str) -> None:
    weight, bias = any_matrix(dtype, 37, 512), noise(37, seed=4)
    x = noise(11, 512, seed=5)
    wanted = ORACLE.linear(wide(x), wide(dequantize(weight)), wide(bias))
    assert_close(NativeOps(isa, 2).linear(x, weight, bias), wanted, 1e-4 if "F" in dtype else 0.02)


@each_isa
def test_a_row_of_linear_does_not_depend_on_the_others(isa: str) -> None:
    weight, x = matrix("Q4_0", 48, 96), noise(13, 96)
    together = NativeOps(isa, 2).linear(x, weight)
    alone = [NativeOps(isa).linear(x[i : i + 1], weight)[0] for i in range(13)]
    np.testing.assert_array_equal(together, np.stack(alone))


class Pages:
    """Filled caches and sequences whose blocks are scattered; what no sequence holds is NaN."""

    def __init__(self, lengths: list[int], block_size: int, kv_heads: int, head_dim: int) -> None:
        needed = [-(-length // block_size) for length in lengths]
        order = iter(np.random.default_rng(6).permutation(sum(needed)).tolist())
        self.tables = np.zeros((len(lengths), max(needed)), np.int32)
        shape = (sum(needed), block_size, kv_heads, head_dim)
        self.k, self.v = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        self.lengths = lengths
        for s, length in enumerate(lengths):
            self.tables[s, : needed[s]] = [next(order) for _ in range(needed[s])]
            for p in range(length):
                at = self.tables[s, p // block_size], p % block_size
                self.k[at] = noise(kv_heads, head_dim, seed=1000 * s + p).astype(np.float16)
                self.v[at] = noise(kv_heads, head_dim, seed=500000 + p).astype(np.float16)

    def context(self, query_lens: list[int]) -> PagedContext:
        starts = np.cumsum([0, *query_lens], dtype=np.int32)
        return PagedContext(starts, np.array(self.lengths, np.int32), self.tables)

    def oracle(
        self, q: Floats, context: PagedContext, window: int | None, cap: float | None
    ) -> torch.Tensor:
        meta = AttentionMeta(
            torch.zeros(0, dtype=torch.int32),
            *(torch.from_numpy(context.query_start), torch.from_numpy(context.context_lens)),
            torch.from_numpy(context.block_tables),
            int(np.diff(context.query_start).max()),
            max(self.lengths),
        )
        k, v = wide(np.nan_to_num(self.k)), wide(np.nan_to_num(self.v))
        return ORACLE.attention(wide(q), k, v, meta, scale=0.2, sliding_window=window, soft_cap=cap)


@each_isa
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size"),
    [(4, 4, 64, 16), (6, 2, 80, 4), (14, 2, 16, 12), (3, 1, 24, 8), (4, 1, 128, 32)],
)
@pytest.mark.parametrize(("window", "cap"), [(None, None), (20, None), (100, 5.0)])
def test_attention(  # noqa: PLR0913 - the cases
    isa: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    window: int | None,
    cap: float | None,
) -> None:
    pages = Pages([1, 70, 131, 64], block_size, kv_heads, head_dim)
    context = pages.context([1, 1, 33, 64])
    q = noise(99, heads, head_dim, seed=7)
    got = NativeOps(isa, 2).attention(
        q, pages.k, pages.v, context, scale=0.2, sliding_window=window, soft_cap=cap
    )
    assert_close(got, pages.oracle(q, context, window, cap), 5e-6)


@each_isa
@pytest.mark.parametrize("window", [None, 700])
def test_long_context_split_over_threads_gives_the_same_bits(isa: str, window: int | None) -> None:
    pages = Pages([1300], 16, 1, 16)
    context, q = pages.context([1]), noise(1, 2, 16)

    def attend(num_threads: int) -> Floats:
        return NativeOps(isa, num_threads).attention(
            q, pages.k, pages.v, context, scale=0.2, sliding_window=window
        )

    assert_close(attend(2), pages.oracle(q, context, window, None), 5e-6)
    np.testing.assert_array_equal(attend(1), attend(2))
    np.testing.assert_array_equal(attend(1), attend(3))


@each_isa
@pytest.mark.parametrize("window", [None, 50])
def test_a_query_attends_with_the_same_bits_alone_and_in_a_chunk(
    isa: str, window: int | None
) -> None:
    pages = Pages([600], 16, 2, 32)  # alone the rows are few: another path of the kernel
    q = noise(600, 6, 32)
    ops = NativeOps(isa, 2)
    whole = ops.attention(
        q, pages.k, pages.v, pages.context([600]), scale=0.2, sliding_window=window
    )
    for position in (0, 5, 63, 64, 511, 512, 599):
        context = replace(pages.context([1]), context_lens=np.array([position + 1], np.int32))
        alone = ops.attention(
            *(q[position : position + 1], pages.k, pages.v, context),
            scale=0.2,
            sliding_window=window,
        )
        np.testing.assert_array_equal(alone[0], whole[position])


@each_isa
@pytest.mark.parametrize(("block_size", "window"), [(16, None), (12, None), (64, 200)])
def test_a_shared_prefix_gives_the_bits_of_a_lonely_sequence(
    isa: str, block_size: int, window: int | None
) -> None:
    """Lengths end within, at and after what is shared; two sequences leave the prefix early."""
    lengths = [300, 256, 259, 150, 517, 300]
    pages = Pages(lengths, block_size, 2, 24)
    for seq, num_shared in enumerate([0, 256, 250, 150, 280, 100]):
        blocks = num_shared // block_size
        pages.tables[seq, :blocks] = pages.tables[0, :blocks]
    context, q = pages.context([1, 1, 1, 1, 1, 20]), noise(25, 6, 24)
    ops = NativeOps(isa, 2)
    together = ops.attention(q, pages.k, pages.v, context, scale=0.2, sliding_window=window)
    assert_close(together, pages.oracle(q, context, window, None), 5e-6)
    for seq in range(6):
        begin, end = context.query_start[seq : seq + 2]
        lonely = PagedContext(
            np.array([0, end - begin], np.int32),
            context.context_lens[seq : seq + 1],
            context.block_tables[seq : seq + 1],
        )
        alone = ops.attention(
            q[begin:end], pages.k, pages.v, lonely, scale=0.2, sliding_window=window
        )
        np.testing.assert_array_equal(alone, together[begin:end])


def as_int8(cache: Floats) -> Floats:
    """[N, B, G, D] as codes of 8 bits under one scale per token and head."""
    scale = np.abs(cache).max(-1, keepdims=True) / 127
    return (np.rint(cache / scale) * scale).astype(np.float32)


@each_isa
@pytest.mark.parametrize(("block_size", "window"), [(16, None), (12, 40)])
def test_attention_over_8_bit_pages(isa: str, block_size: int, window: int | None) -> None:
    pages = Pages([1, 70, 300, 64], block_size, 2, 24)
    context, q = pages.context([1, 1, 33, 64]), noise(99, 6, 24, seed=7)
    got = NativeOps(isa, 2).attention(
        *(q, pages.k, pages.v, context), scale=0.2, sliding_window=window, kv_format="int8"
    )
    exact = pages.oracle(q, context, window, None)
    pages.k[...], pages.v[...] = as_int8(pages.k), as_int8(pages.v)
    assert_close(got, pages.oracle(q, context, window, None), 1e-3)  # the oracle keeps fp16 of it
    assert not np.allclose(got, exact.numpy(), rtol=0, atol=1e-4)


@each_isa
def test_values_beyond_half_precision_saturate(isa: str) -> None:
    pages = Pages([4], 4, 1, 16)
    pages.v[...] = 1e6
    got = NativeOps(isa).attention(noise(1, 1, 16), pages.k, pages.v, pages.context([1]), scale=0.2)
    np.testing.assert_allclose(got, 65504.0, rtol=1e-6)


def attention_of(pages: Pages, context: PagedContext, heads: int = 2) -> Floats:
    tokens = int(context.query_start[-1])
    return NativeOps().attention(noise(tokens, heads, 8), pages.k, pages.v, context, scale=1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_tables": np.array([[7, 1]], np.int32)}, r"block_tables\[0\]\[0\] is 7"),
        ({"block_tables": np.array([[0, -1]], np.int32)}, r"block_tables\[0\]\[1\] is -1"),
        ({"context_lens": np.array([9], np.int32)}, r"context_lens\[0\] is 9"),
        ({"context_lens": np.array([0], np.int32)}, r"context_lens\[0\] is 0"),
        ({"query_start": np.array([1, 1], np.int32)}, "query_start goes from 1"),
        ({"query_start": np.array([0], np.int32)}, "query_start has 1 entries"),
        ({"context_lens": np.array([8])}, "context_lens is an array of int64"),
        ({"block_tables": np.zeros((2, 2), np.int32)[:, ::2]}, "not contiguous"),
    ],
)
def test_attention_refuses_what_lies_outside(change: dict[str, object], words: str) -> None:
    pages = Pages([8], 4, 1, 8)
    with pytest.raises(ValueError, match=words):
        attention_of(pages, replace(pages.context([1]), **change))  # type: ignore[arg-type]


def test_heads_must_be_whole_groups() -> None:
    pages = Pages([8], 4, 2, 8)
    with pytest.raises(ValueError, match="3 heads"):
        attention_of(pages, pages.context([1]), heads=3)


def test_tensor_bytes_must_fit_the_shape() -> None:
    weight = matrix("Q8_0", 4, 64)
    with pytest.raises(ValueError, match="has 271 bytes"):
        dequantize(replace(weight, data=weight.data[:-1]))
    with pytest.raises(ValueError, match="packs 32 at a time"):
        dequantize(replace(weight, shape=(4, 63)))
    with pytest.raises(ValueError, match="sizes must be"):
        dequantize(replace(weight, shape=(2**40, 2**40)))
    with pytest.raises(ValueError, match="Q9_9"):
        dequantize(replace(weight, dtype="Q9_9"))


def test_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="sse9"):
        NativeOps("sse9").soft_cap(noise(1, 1), 1.0)


def test_machine_limits_are_positive_and_bounded() -> None:
    assert 0.1 < _C.measure_bandwidth(1, 1 << 26) < 1e4
    assert 0.1 < _C.measure_int8_peak(2) < 1e6
    assert 0.1 < _C.measure_fp32_peak(2) < 1e6
    with pytest.raises(ValueError, match="num_threads is 0"):
        _C.measure_int8_peak(0)
    with pytest.raises(ValueError, match="bytes is 5"):
        _C.measure_bandwidth(1, 5)
