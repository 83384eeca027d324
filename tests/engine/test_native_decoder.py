"""The native decoder: equal to the torch decoder in meaning, and to itself to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_decoding import Floats, NativeDecoding, native_decoder
from paged_decoding import logits_of
from prose import PROSE

from picert import _C, hub
from picert.engine.runner import native_config
from picert.models.tokenizer import load_tokenizer
from picert.models.weights import Checkpoint, load_checkpoint

ISAS = _C.supported_isas()
# What quantised activations, and 8-bit keys and values, may cost.
MEAN_KL, TOP1 = {"fp16": 0.004, "int8": 0.01}, {"fp16": 0.96, "int8": 0.95}
Load = Callable[[str, str], Checkpoint]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Tiny checkpoints, each made once."""
    folder = tmp_path_factory.mktemp("models")
    return cache(lambda arch, quant: load_checkpoint(tiny_models.make_gguf(folder, arch, quant)))


@pytest.fixture(scope="module")
def oracle(load: Load) -> Callable[[str, str], torch.Tensor]:
    """fp32 logits of the torch decoder for `tokens_of(checkpoint, 90)`."""

    @cache
    def logits(arch: str, quant: str) -> torch.Tensor:
        checkpoint = load(arch, quant)
        return logits_of(checkpoint, tokens_of(checkpoint, 90))

    return logits


def tokens_of(checkpoint: Checkpoint, count: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    tokens: list[int] = rng.integers(0, checkpoint.config.vocab_size, count).tolist()
    return tokens


def decoding(
    checkpoint: Checkpoint, isa: str = "", threads: int = 2, block_size: int = 4
) -> NativeDecoding:
    return NativeDecoding(
        checkpoint, native_decoder(checkpoint, isa, threads), block_size=block_size
    )


def kl_divergence(wanted: torch.Tensor, got: Floats) -> torch.Tensor:
    """KL(wanted || got) of each row, in nats."""
    p = torch.log_softmax(wanted.double(), -1)
    q = torch.log_softmax(torch.from_numpy(got).double(), -1)
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("arch", tiny_models.ARCHS)
def test_unquantised_weights_give_the_torch_logits(
    arch: str, isa: str, load: Load, oracle: Callable[[str, str], torch.Tensor]
) -> None:
    checkpoint, wanted = load(arch, "F32"), oracle(arch, "F32")
    got = decoding(checkpoint, isa).step({"a": tokens_of(checkpoint, 90)})["a"]
    # What is left is the cache in fp16.
    assert np.abs(got - wanted.numpy()).max() < 4e-3 * wanted.abs().max().item()
    assert kl_divergence(wanted, got).max().item() < 2e-5


@pytest.mark.parametrize("quant", ["Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("arch", tiny_models.ARCHS)
def test_quantised_weights_stay_near_the_torch_logits(
    arch: str, quant: str, load: Load, oracle: Callable[[str, str], torch.Tensor]
) -> None:
    checkpoint = load(arch, quant)
    got = decoding(checkpoint).step({"a": tokens_of(checkpoint, 90)})["a"]
    assert kl_divergence(oracle(arch, quant), got).mean().item() < MEAN_KL["fp16"]


@pytest.mark.parametrize(("quantization", "limit"), [("q8", 0.006), ("q4", 0.4)])
@pytest.mark.parametrize("arch", tiny_models.ARCHS)
def test_weights_quantised_on_load_stay_near_the_torch_logits(
    arch: str,
    quantization: str,
    limit: float,
    load: Load,
    oracle: Callable[[str, str], torch.Tensor],
) -> None:
    checkpoint = load(arch, "F32")
    decoder = native_decoder(checkpoint, quantization=quantization)
    got = NativeDecoding(checkpoint, decoder).step({"a": tokens_of(checkpoint, 90)})["a"]
    assert 0 < kl_divergence(oracle(arch, "F32"), got).mean().item() < limit


def test_large_key_biases_do_not_drown_8_bit_keys(load: Load) -> None:
    plain = load("qwen2", "Q8_0")
    bias = np.ascontiguousarray(plain.tensors["layers.0.k.bias"].data).view(np.float32).copy()
    bias[[3, 17]] = 90.0, -60.0
    bytes_of_bias = replace(plain.tensors["layers.0.k.bias"], data=bias.view(np.uint8))
    outlying = replace(plain, tensors={**plain.tensors, "layers.0.k.bias": bytes_of_bias})
    tokens = tokens_of(outlying, 60)
    wanted = logits_of(outlying, tokens)
    kl = {}
    for kv_format in ("fp16", "int8"):
        native = NativeDecoding(outlying, native_decoder(outlying), kv_format=kv_format)
        kl[kv_format] = kl_divergence(wanted, native.step({"a": tokens})["a"]).mean().item()
    assert kl["int8"] < 0.03 > 5 * kl["fp16"]  # 0.06 if one scale served channels as they are


@pytest.mark.parametrize(("attn_cap", "logit_cap"), [(2.0, None), (None, 1.5)])
def test_soft_caps_give_the_torch_logits(
    attn_cap: float | None, logit_cap: float | None, load: Load
) -> None:
    plain = load("qwen3", "F32")
    config = replace(plain.config, attn_soft_cap=attn_cap, logit_soft_cap=logit_cap)
    capped = replace(plain, config=config)
    tokens = tokens_of(capped, 40)
    wanted = logits_of(capped, tokens)
    got = decoding(capped).step({"a": tokens})["a"]
    assert np.abs(got - wanted.numpy()).max() < 4e-3 * wanted.abs().max().item()
    assert not np.array_equal(got, decoding(plain).step({"a": tokens})["a"])


# smollm2 is plain; gemma3 has windows and two rope tables. 300 tokens take more than one pass of
# the feed-forward part.
BITWISE = pytest.mark.parametrize("isa", ISAS)


@BITWISE
@pytest.mark.parametrize("arch", ["smollm2", "gemma3"])
def test_chunked_prefill_has_the_bits_of_a_whole_one(arch: str, isa: str, load: Load) -> None:
    checkpoint = load(arch, "Q8_0")
    tokens = tokens_of(checkpoint, 300)
    whole = decoding(checkpoint, isa, block_size=16).step({"a": tokens})["a"]
    chunked = decoding(checkpoint, isa, block_size=16)
    ends = [1, 8, 41, 42, 120, 299, 300]
    parts = [
        chunked.step({"a": tokens[begin:end]})["a"]
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@BITWISE
@pytest.mark.parametrize("arch", ["smollm2", "gemma3"])
def test_batched_sequences_have_the_bits_of_lonely_ones(arch: str, isa: str, load: Load) -> None:
    checkpoint = load(arch, "Q8_0")
    prompts = {name: tokens_of(checkpoint, 3 + 19 * i, i) for i, name in enumerate("abcdef")}
    together = decoding(checkpoint, isa)
    first = together.step(prompts)
    second = together.step({name: [7] for name in reversed(prompts)})
    for name, prompt in prompts.items():
        alone = decoding(checkpoint, isa, threads=1)
        np.testing.assert_array_equal(alone.step({name: prompt})[name], first[name])
        np.testing.assert_array_equal(alone.step({name: [7]})[name], second[name])


@BITWISE
@pytest.mark.parametrize("quant", ["F32", "Q4_0"])
def test_number_of_threads_does_not_change_a_bit(quant: str, isa: str, load: Load) -> None:
    checkpoint = load("qwen2", quant)
    tokens = tokens_of(checkpoint, 70)
    one, two, three = (
        decoding(checkpoint, isa, threads).step({"a": tokens})["a"] for threads in (1, 2, 3)
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_block_size_does_not_change_a_bit(load: Load) -> None:
    checkpoint = load("llama", "Q8_0")
    tokens = tokens_of(checkpoint, 130)
    four = decoding(checkpoint, block_size=4).step({"a": tokens})["a"]
    for block_size in (12, 16, 64):
        other = decoding(checkpoint, block_size=block_size).step({"a": tokens})["a"]
        np.testing.assert_array_equal(other, four)


def test_a_sequence_may_attend_to_blocks_that_another_fills_in_the_same_step(load: Load) -> None:
    checkpoint = load("llama", "Q8_0")
    tokens = tokens_of(checkpoint, 9)
    runner = decoding(checkpoint)
    arrays = runner.arrays({"a": tokens[:8], "b": tokens})
    tables = arrays["block_tables"]
    tables[1, :2] = tables[0, :2]  # b shares the first two blocks of a and computes its last token
    batch = {
        **arrays,
        "token_ids": arrays["token_ids"][[*range(8), 16]],
        "positions": arrays["positions"][[*range(8), 16]],
        "slot_mapping": arrays["slot_mapping"][[*range(8), 16]],
        "query_start": np.array([0, 8, 9], np.int32),
        "logits_indices": np.array([8], np.int32),
    }
    out = np.empty((1, checkpoint.config.vocab_size), np.float32)
    runner._decoder.step(**batch, logits_out=out)
    alone = decoding(checkpoint).step({"a": tokens})["a"]
    np.testing.assert_array_equal(out[0], alone[-1])


@pytest.mark.parametrize("wanted", [[], [4], [0, 2, 2, 9]])
def test_logits_come_for_the_wanted_rows_alone(wanted: list[int], load: Load) -> None:
    checkpoint = load("llama", "Q8_0")
    tokens = tokens_of(checkpoint, 10)
    everything = decoding(checkpoint).step({"a": tokens})["a"]
    runner = decoding(checkpoint)
    arrays = runner.arrays({"a": tokens})
    arrays["logits_indices"] = np.array(wanted, np.int32)
    out = np.empty((len(wanted), checkpoint.config.vocab_size), np.float32)
    runner._decoder.step(**arrays, logits_out=out)
    np.testing.assert_array_equal(out, everything[wanted])


def test_decoder_tells_what_it_holds(load: Load) -> None:
    checkpoint = load("llama", "Q8_0")
    decoder = native_decoder(checkpoint, "scalar", 3)
    assert (decoder.isa, decoder.num_threads, decoder.kv_bytes) == ("scalar", 3, 0)
    file_bytes = sum(tensor.data.size for tensor in checkpoint.tensors.values())
    embed_bytes = checkpoint.tensors["embed.weight"].data.size
    assert 0.9 * file_bytes < decoder.weight_bytes < 1.3 * (file_bytes + embed_bytes)
    decoder.allocate_kv(8, 16)
    config = checkpoint.config
    kv_values = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 8 * 16
    assert decoder.kv_bytes == 2 * kv_values


def step_of(load: Load, **changes: Any) -> None:
    """A sound step of ten tokens, with some arguments replaced."""
    checkpoint = load("llama", "Q8_0")
    runner = NativeDecoding(checkpoint, native_decoder(checkpoint), num_blocks=8)
    arrays = runner.arrays({"a": tokens_of(checkpoint, 6), "b": tokens_of(checkpoint, 4)})
    out = np.empty((10, checkpoint.config.vocab_size), np.float32)
    runner._decoder.step(**{**arrays, "logits_out": out, **changes})


def int32(*values: Any) -> Any:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_ids": int32(*[10**6] * 10)}, r"token_ids\[0\] is 1000000"),
        ({"token_ids": int32(*[-1] * 10)}, r"token_ids\[0\] is -1"),
        ({"token_ids": np.zeros(10)}, "token_ids is an array of float64"),
        ({"token_ids": [1] * 10}, "token_ids is list"),
        ({"token_ids": int32()}, "positions has 10 entries"),
        ({"token_ids": np.zeros(20, np.int32)[::2]}, "token_ids is .* not contiguous"),
        ({"positions": int32(*range(10))}, r"positions\[6\] is 6, must be 0"),
        ({"positions": int32(*range(9))}, "positions has 9 entries"),
        ({"slot_mapping": int32(*[32] * 10)}, r"slot_mapping\[0\] is 32, must be 0 to 31"),
        ({"slot_mapping": int32(*[-4] * 10)}, r"slot_mapping\[0\] is -4"),
        ({"query_start": int32(0, 6, 11)}, "query_start goes from 0 to 11"),
        ({"query_start": int32(0, 11, 10)}, r"query_start\[0\] is 0 and the next 11"),
        ({"query_start": int32(0, 0, 10)}, r"query_start\[0\] is 0 and the next 0"),
        ({"query_start": int32(0, 10)}, "query_start has 2 entries"),
        ({"context_lens": int32(5, 4)}, r"context_lens\[0\] is 5"),
        ({"context_lens": int32(6, 2**31 - 1)}, r"context_lens\[1\] is 2147483647"),
        ({"block_tables": int32([0, 8], [2, 3])}, r"block_tables\[0\]\[1\] is 8"),
        ({"block_tables": int32([0, -1], [2, 3])}, r"block_tables\[0\]\[1\] is -1"),
        ({"block_tables": int32([0, 1])}, "block_tables has 1 rows"),
        ({"block_tables": int32(0, 1)}, "block_tables has 1 dimensions"),
        ({"logits_indices": int32(10)}, "logits_out has 10 entries"),
        ({"logits_indices": int32(*[10] * 10)}, r"logits_indices\[0\] is 10"),
        ({"logits_out": np.zeros((10, 3), np.float32)}, "entries in dimension 1"),
        ({"logits_out": np.zeros((10, 3))}, "logits_out is an array of float64"),
    ],
)
def test_a_step_refuses_what_lies_outside(changes: dict[str, Any], words: str, load: Load) -> None:
    with pytest.raises(ValueError, match=words):
        step_of(load, **changes)


int32s = st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 12), max_size=12)


@given(
    name=st.sampled_from(
        ["token_ids", "positions", "slot_mapping", "query_start", "context_lens", "logits_indices"]
    ),
    values=int32s,
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_arbitrary_integers_never_lead_outside(name: str, values: list[int], load: Load) -> None:
    refusal = "it must be so"
    try:
        step_of(load, **{name: int32(*values)})
    except ValueError as error:
        refusal = str(error)
    assert "must" in refusal


def test_a_refused_step_leaves_the_decoder_usable(load: Load) -> None:
    checkpoint = load("llama", "Q8_0")
    runner = decoding(checkpoint)
    arrays = runner.arrays({"a": [1, 2, 3]})
    out = np.empty((3, checkpoint.config.vocab_size), np.float32)
    with pytest.raises(ValueError, match="token_ids"):
        runner._decoder.step(**{**arrays, "token_ids": int32(-1, 0, 0)}, logits_out=out)
    runner._decoder.step(**arrays, logits_out=out)
    np.testing.assert_array_equal(out, decoding(checkpoint).step({"a": [1, 2, 3]})["a"])


def test_a_step_needs_a_cache(load: Load) -> None:
    checkpoint = load("llama", "Q8_0")
    arrays = decoding(checkpoint).arrays({"a": [1]})
    out = np.empty((1, checkpoint.config.vocab_size), np.float32)
    with pytest.raises(ValueError, match="call allocate_kv first"):
        native_decoder(checkpoint).step(**arrays, logits_out=out)


@pytest.mark.parametrize(
    ("num_blocks", "block_size", "words"),
    [
        (0, 16, "num_blocks is 0"),
        (-1, 16, "num_blocks is -1"),
        (2**40, 16, "num_blocks is"),
        (1, 6, "block_size is 6"),
        (1, 0, "block_size is 0"),
        (1, 2**40, "block_size is"),
    ],
)
def test_cache_sizes_out_of_reason_are_refused(
    num_blocks: int, block_size: int, words: str, load: Load
) -> None:
    decoder = native_decoder(load("llama", "Q8_0"))
    with pytest.raises(ValueError, match=words):
        decoder.allocate_kv(num_blocks, block_size)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": 2**62}, "num_layers is"),
        ({"num_heads": 3}, "must be a multiple of num_kv_heads"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"head_dim": 1024}, "head_dim is 1024"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0"),
        ({"softmax_scale": float("nan")}, "softmax_scale is nan"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"hidden_size": "many"}, "hidden_size is 'many'"),
        ({"inv_freq": np.ones(3, np.float32)}, "inv_freq has 3 entries"),
        ({"inv_freq": [1.0]}, "inv_freq is list"),
        ({"window": [0]}, "window has 1 entries"),
        ({"window": [-1, 0, 0]}, "window is -1"),
        ({"is_local": [True, True, True]}, "inv_freq_local has 0 entries"),
        ({"intermediate_size": 161}, r"has shape \[160, 64\], must be \[161, 64\]"),
        ({"qkv_bias": True}, "q.bias is missing"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    changes: dict[str, Any], words: str, load: Load
) -> None:
    checkpoint = load("llama", "Q8_0")
    tensors = {name: (t.dtype, t.shape, t.data) for name, t in checkpoint.tensors.items()}
    with pytest.raises(ValueError, match=words):
        _C.Decoder({**native_config(checkpoint.config), **changes}, tensors, 1)


def test_a_missing_field_is_named(load: Load) -> None:
    config = native_config(load("llama", "Q8_0").config)
    del config["num_heads"]
    with pytest.raises(ValueError, match="config has no num_heads"):
        _C.Decoder(config, {}, 1)


def test_tensors_must_be_those_of_the_model(load: Load) -> None:
    checkpoint = load("llama", "Q8_0")
    config = native_config(checkpoint.config)
    tensors = {name: (t.dtype, t.shape, t.data) for name, t in checkpoint.tensors.items()}
    with pytest.raises(ValueError, match=r"layers\.1\.up\.weight is missing"):
        _C.Decoder(config, {n: t for n, t in tensors.items() if n != "layers.1.up.weight"}, 1)
    with pytest.raises(ValueError, match="tensor bogus is not part of this model"):
        _C.Decoder(config, {**tensors, "bogus": tensors["final_norm.weight"]}, 1)
    dtype, shape, data = tensors["layers.0.q.weight"]
    with pytest.raises(ValueError, match=r"layers\.0\.q\.weight .* bytes, must have"):
        _C.Decoder(config, {**tensors, "layers.0.q.weight": (dtype, shape, data[:-34])}, 1)


@pytest.mark.real_model
@pytest.mark.parametrize("kv_format", ["fp16", "int8"])
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"])
def test_real_model_stays_near_fp32_on_prose(name: str, kv_format: str) -> None:
    torch.set_num_threads(2)
    checkpoint = load_checkpoint(hub.find(name))
    tokens = load_tokenizer(checkpoint.tokenizer_source).encode(PROSE)[:400]
    assert len(tokens) == 400
    wanted = logits_of(checkpoint, tokens)
    native = NativeDecoding(
        checkpoint, native_decoder(checkpoint), block_size=16, kv_format=kv_format
    )
    got = native.step({"a": tokens})["a"]
    agreement = (wanted.argmax(-1).numpy() == got.argmax(-1)).mean()
    assert kl_divergence(wanted, got).mean().item() <= MEAN_KL[kv_format]
    assert agreement >= TOP1[kv_format]
