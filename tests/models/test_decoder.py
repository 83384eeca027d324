"""The torch decoder against transformers (fp32, eager) on tiny models of every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
import transformers
from paged_decoding import PagedDecoding, fp32_decoder, logits_of
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from picert import hub
from picert.models.tokenizer import load_tokenizer
from picert.models.weights import Checkpoint, dequantize, load_checkpoint

MAX_RELATIVE_ERROR = 1e-4
TOKENS = torch.randint(3, 384, (60,), generator=torch.Generator().manual_seed(5)).tolist()
GGUF_CASES = [(arch, "Q8_0") for arch in tiny_models.ARCHS] + [
    ("llama", quant) for quant in tiny_models.QUANTS if quant != "Q8_0"
]
ROPE = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "rope_theta": 500_000.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": 128,
    },
}


def assert_same_logits(ours: Tensor, theirs: Tensor) -> None:
    """Equal relative to the spread of the logits, which is what sampling sees."""
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error < MAX_RELATIVE_ERROR, f"relative error {error:.2e}"
    assert theirs.std() > 0.3, "logits this flat would hide an error"


def transformers_logits(model: torch.nn.Module, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def with_values_of(
    model: transformers.PreTrainedModel, checkpoint: Checkpoint
) -> transformers.PreTrainedModel:
    """`model` with the checkpoint's dequantised values in place of its own."""
    names = {
        "attn_norm": "input_layernorm",
        **{f"{x}": f"self_attn.{x}_proj" for x in "qkvo"},
        **{f"{x}_norm": f"self_attn.{x}_norm" for x in "qk"},
        **{x: f"mlp.{x}_proj" for x in ("gate", "up", "down")},
        "post_attn_norm": "post_attention_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "post_ffn_norm": "post_feedforward_layernorm",
    }
    is_gemma = checkpoint.config.architecture == "gemma3"
    if is_gemma:
        names["ffn_norm"] = "pre_feedforward_layernorm"
    outer = {"embed": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"}
    state = {}
    for name, tensor in checkpoint.tensors.items():
        parts = name.split(".")
        stem = f"model.layers.{parts[1]}.{names[parts[2]]}" if len(parts) == 4 else outer[parts[0]]
        values = torch.tensor(dequantize(tensor))
        state[f"{stem}.{parts[-1]}"] = values - 1 if is_gemma and "norm" in name else values
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


@pytest.mark.parametrize("arch", tiny_models.ARCHS)
def test_safetensors_logits_equal_transformers(arch: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_safetensors(tmp_path, arch))
    theirs = transformers_logits(tiny_models.make_model(arch), TOKENS)
    assert_same_logits(logits_of(checkpoint, TOKENS), theirs)


@pytest.mark.parametrize(("arch", "quant"), GGUF_CASES)
def test_gguf_logits_equal_transformers_on_the_dequantised_weights(
    arch: str, quant: str, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(tiny_models.make_gguf(tmp_path, arch, quant))
    model = tiny_models.make_model(arch, seed=9, wide=quant.endswith("_K"))
    theirs = transformers_logits(with_values_of(model, checkpoint), TOKENS)
    assert_same_logits(logits_of(checkpoint, TOKENS), theirs)


@pytest.mark.parametrize("arch", tiny_models.ARCHS)
def test_unquantised_gguf_equals_the_model_it_was_written_from(arch: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_gguf(tmp_path, arch, "F32"))
    theirs = transformers_logits(tiny_models.make_model(arch), TOKENS)
    assert_same_logits(logits_of(checkpoint, TOKENS), theirs)


@pytest.mark.parametrize("kind", ROPE)
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_scaled_rope_equals_transformers(arch: str, kind: str, tmp_path: Path) -> None:
    path = tiny_models.make_safetensors(tmp_path, arch, rope_parameters=ROPE[kind])
    theirs = transformers_logits(tiny_models.make_model(arch, rope_parameters=ROPE[kind]), TOKENS)
    assert_same_logits(logits_of(load_checkpoint(path), TOKENS), theirs)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_scaled_rope_in_gguf_equals_transformers(kind: str, tmp_path: Path) -> None:
    path = tiny_models.make_gguf(tmp_path, "llama", "F32", rope_parameters=ROPE[kind])
    theirs = transformers_logits(
        tiny_models.make_model("llama", rope_parameters=ROPE[kind]), TOKENS
    )
    assert_same_logits(logits_of(load_checkpoint(path), TOKENS), theirs)


def test_qwen_slides_only_in_the_upper_layers(tmp_path: Path) -> None:
    fields = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    checkpoint = load_checkpoint(tiny_models.make_safetensors(tmp_path, "qwen2", **fields))
    theirs = transformers_logits(tiny_models.make_model("qwen2", **fields), TOKENS)
    assert checkpoint.config.sliding_layers == (False, True, True)
    assert_same_logits(logits_of(checkpoint, TOKENS), theirs)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_chunked_prefill_equals_whole_prefill(arch: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_safetensors(tmp_path, arch))
    decoding = PagedDecoding(fp32_decoder(checkpoint))
    chunks = [TOKENS[:1], TOKENS[1:14], TOKENS[14:49], TOKENS[49:50], TOKENS[50:]]
    chunked = torch.cat([decoding.step({"a": chunk})["a"] for chunk in chunks])
    torch.testing.assert_close(chunked, logits_of(checkpoint, TOKENS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["mistral", "smollm2"])
def test_neighbours_in_a_step_change_nothing(arch: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_safetensors(tmp_path, arch))
    decoding = PagedDecoding(fp32_decoder(checkpoint))
    first = decoding.step({"x": TOKENS[:7], "a": TOKENS[:20], "y": TOKENS[30:31]})["a"]
    second = decoding.step({"a": TOKENS[20:21], "x": TOKENS[7:40]})["a"]
    alone = logits_of(checkpoint, TOKENS[:21])
    torch.testing.assert_close(torch.cat((first, second)), alone, rtol=1e-4, atol=1e-4)


def test_only_the_wanted_rows_reach_the_head(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_safetensors(tmp_path, "llama"))
    decoder = fp32_decoder(checkpoint)
    seen: list[int] = []
    decoder.final_norm.register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    logits = PagedDecoding(decoder).step({"a": TOKENS[:9], "b": TOKENS[:4]}, last_only=True)
    assert seen == [2]
    for name, length in (("a", 9), ("b", 4)):
        whole = logits_of(checkpoint, TOKENS[:length])
        torch.testing.assert_close(logits[name], whole[-1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_load_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tiny_models.make_safetensors(tmp_path, "qwen2", dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    ours = logits_of(load_checkpoint(path), TOKENS)
    assert_same_logits(ours, transformers_logits(model, TOKENS))


@pytest.mark.real_model
def test_real_smollm2_writes_what_transformers_writes() -> None:
    checkpoint = load_checkpoint(hub.find("smollm2-135m-instruct"))
    tokenizer = load_tokenizer(checkpoint.tokenizer_source)
    decoding = PagedDecoding(fp32_decoder(checkpoint), block_size=16)
    tokens = tokenizer.encode("The capital of France is")
    logits = decoding.step({"a": tokens})["a"]
    for _ in range(8):
        tokens.append(int(logits[-1].argmax()))
        logits = torch.cat((logits, decoding.step({"a": tokens[-1:]})["a"]))
    assert "Paris" in tokenizer.decode(tokens)
    assert_same_logits(logits, transformers_logits(real_llama(checkpoint), tokens))


def real_llama(checkpoint: Checkpoint) -> transformers.PreTrainedModel:
    """transformers' model of a Llama checkpoint, on its dequantised values."""
    ours = checkpoint.config
    config = transformers.LlamaConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        rms_norm_eps=ours.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        tie_word_embeddings=ours.tie_embeddings,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return with_values_of(model, checkpoint).eval()
