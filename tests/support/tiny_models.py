"""Tiny random checkpoints of every architecture, with a real tokenizer: safetensors and GGUF.

Weights are random but of sane size, so that logits differ clearly between tokens. Equal arguments
give equal files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_gguf
import torch
import transformers
from tiny_gguf import Extras
from tiny_tokenizer import END_OF_TEXT, IM_END, VOCAB_SIZE, write_tokenizer_files

ARCHS = ("llama", "smollm2", "qwen2", "qwen3", "mistral", "gemma3")
QUANTS = tiny_gguf.QUANTS
NO_EXTRAS = Extras()

_CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "smollm2": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
}
_BASE = {
    "vocab_size": VOCAB_SIZE,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": IM_END,
    "pad_token_id": END_OF_TEXT,
    "tie_word_embeddings": False,
}
_NARROW = {"hidden_size": 64, "intermediate_size": 160}
_WIDE = {  # every row a multiple of 256
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
_OF_ARCH: dict[str, dict[str, Any]] = {
    "llama": {},
    "smollm2": {
        "tie_word_embeddings": True,
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    },
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "mistral": {"sliding_window": 16},
    "gemma3": {
        "num_hidden_layers": 7,  # the sixth sees everything, the others slide
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 16,
        "tie_word_embeddings": True,
    },
}


def make_model(
    arch: str, *, seed: int = 0, wide: bool = False, **overrides: Any
) -> transformers.PreTrainedModel:
    """A random transformers model in fp32, eager attention, evaluation mode.

    `overrides` are fields of the transformers config. `wide` makes every row a multiple of 256, as
    K-quants need.
    """
    config_class, model_class = _CLASSES[arch]
    fields = {**_BASE, **_NARROW, **_OF_ARCH[arch], **(_WIDE if wide else {})}
    if wide and arch == "gemma3":
        fields["query_pre_attn_scalar"] = _WIDE["head_dim"]
    config = config_class(**{**fields, **overrides}, attn_implementation="eager")
    model = model_class(config).to(torch.float32).eval()
    _randomise(model, seed)
    return model


def make_safetensors(
    folder: Path,
    arch: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    **overrides: Any,
) -> Path:
    """Write the folder `folder`/tiny-`arch` (config, weights, tokenizer) and return its path."""
    path = folder / f"tiny-{arch}"
    model = make_model(arch, seed=seed, **overrides).to(dtype)
    model.save_pretrained(path, max_shard_size=max_shard_size)
    write_tokenizer_files(path)
    return path


def make_gguf(
    folder: Path,
    arch: str,
    quant: str = "Q8_0",
    *,
    seed: int = 0,
    extras: Extras = NO_EXTRAS,
    **overrides: Any,
) -> Path:
    """Write `folder`/tiny-`arch`-`quant`.gguf as converters lay it out, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny-{arch}-{quant}.gguf"
    model = make_model(arch, seed=seed, wide=quant.endswith("_K"), **overrides)
    tiny_gguf.write(path, model, quant, seed, extras)
    return path


@torch.no_grad()
def _randomise(model: transformers.PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith(
            "norm.weight"
        ):  # around the neutral value, which differs between architectures
            weight.copy_(weight + 0.2 * noise)
        elif weight.dim() == 2:
            weight.copy_(noise * (1.5 * weight.shape[1] ** -0.5))
        else:
            weight.copy_(0.1 * noise)
