"""Writes a transformers model as GGUF, with the names, row order and +1 of the usual converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray
from tiny_tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, SPECIAL_TOKENS, tokens_and_merges

QUANTS = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q4_K", "Q5_K", "Q6_K"),
)

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_ARCH_IN_FILE = {"mistral": "llama", "gemma3_text": "gemma3"}


@dataclass(frozen=True, slots=True)
class Extras:
    """What to put into a file beyond its model, or in place of it, under GGUF's own names."""

    tensors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    metadata: Mapping[str, int | float | str] = field(default_factory=dict)


def write(
    path: Path, model: transformers.PreTrainedModel, quant: str, seed: int, extras: Extras
) -> None:
    """Write `model` to `path`, its matrices in `quant` (K-quants: random blocks instead)."""
    config = model.config
    arch = _ARCH_IN_FILE.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(path.stem)
    _add_config(writer, config)
    _add_tokenizer(writer)
    for key, value in extras.metadata.items():
        _replace(writer, key, value)
    for name, tensor in extras.tensors.items():
        writer.add_tensor(name, tensor)
    rng = np.random.default_rng(seed)
    tied = config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        if not (tied and name.startswith("lm_head")):
            values = _converted(name, weight, config).numpy()
            _add_tensor(writer, _gguf_name(name, arch), values, quant, rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permuted(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a Llama q or k matrix from rope pairs (d, d + D/2) to neighbours, as in files."""
    half = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, 2, half, -1).transpose(1, 2).reshape(weight.shape)


def _converted(
    name: str, weight: torch.Tensor, config: transformers.PretrainedConfig
) -> torch.Tensor:
    if config.model_type in ("llama", "mistral"):
        if name.endswith("q_proj.weight"):
            return permuted(weight, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            return permuted(weight, config.num_key_value_heads)
    if config.model_type == "gemma3_text" and name.endswith("norm.weight"):
        return weight + 1
    return weight


def _gguf_name(name: str, arch: str) -> str:
    names = _NAMES | (_GEMMA_NAMES if arch == "gemma3" else {})
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{names[part]}.{kind}"
    return f"{names[stem]}.{kind}"


def _add_config(writer: gguf.GGUFWriter, config: transformers.PretrainedConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None)
    if head_dim:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(
            rope.get("original_max_position_embeddings", config.max_position_embeddings)
        )


def _replace(writer: gguf.GGUFWriter, key: str, value: int | float | str) -> None:
    writer.kv_data[0].pop(key, None)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add[type(value)](key, value)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens, merges = tokens_and_merges()
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if t in SPECIAL_TOKENS else normal for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    values: NDArray[np.float32],
    quant: str,
    rng: np.random.Generator,
) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values)
        return
    qtype = GGMLQuantizationType[quant]
    if quant.endswith("_K"):
        data = _random_k_blocks(values.shape, quant, rng)
    else:
        data = quants.quantize(values, qtype)
    writer.add_tensor(name, data, raw_dtype=qtype)


def _random_k_blocks(
    shape: tuple[int, ...], quant: str, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Random codes under scales that give about the standard deviation 1.5 / sqrt(inputs)."""
    rows, cols = shape
    _, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[quant]]
    blocks = rng.integers(0, 256, (rows, cols // 256, size), dtype=np.uint8)
    wanted = 1.5 * cols**-0.5
    if quant == "Q6_K":  # ql[128] qh[64] scales int8[16] d; the value is d * scale * (code - 32)
        blocks[..., 192:208] = rng.integers(-32, 32, (*blocks.shape[:2], 16), dtype=np.int8).view(
            np.uint8
        )
        blocks[..., 208:210] = _half(wanted / (18.5 * 18.5))
        return blocks.reshape(rows, -1)
    top = (
        15.0 if quant == "Q4_K" else 31.0
    )  # d, dmin, 6-bit scales and minima; d * scale * code - dmin * min
    scale = wanted / (36.0 * top * 0.5)
    blocks[..., 0:2] = _half(scale)
    blocks[..., 2:4] = _half(scale * top * 0.5)
    return blocks.reshape(rows, -1)


def _half(value: float) -> NDArray[np.uint8]:
    return np.array([value], dtype=np.float16).view(np.uint8)
