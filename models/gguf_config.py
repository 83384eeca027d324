"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from picert.errors import ModelError
from picert.models.config import Architecture, ModelConfig, RopeScaling
from picert.models.fields import Fields
from picert.models.gguf_header import MetadataValue

ROPE_FREQS = "rope_freqs.weight"  # the tensor that is really configuration: Llama 3's scaling

_ARCHITECTURES: dict[str, Architecture] = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
}
_GEMMA3_PERIOD = 6  # every sixth layer sees everything
_GEMMA3_27B_LAYERS = 62  # the one size whose softmax scale is not head_dim ** -0.5

_NEUTRAL_SCALING = {
    "attn_factor": 1.0,
    "yarn_attn_factor": 1.0,
    "yarn_ext_factor": 1.0,
    "yarn_log_multiplier": 0.0,
}


def config_from_metadata(
    where: str,
    metadata: Mapping[str, MetadataValue],
    shapes: Mapping[str, tuple[int, ...]],
    rope_factors: tuple[float, ...],
) -> ModelConfig:
    """What the file says of its network; `shapes` of its tensors give the vocabulary and tying.

    Raises ModelError, naming the key, for an architecture or feature that is not supported.
    """
    family = Fields(where, metadata).text("general.architecture")
    architecture = _ARCHITECTURES.get(family)
    if architecture is None:
        raise ModelError(
            f"{where} is of architecture {family[:40]!r}, supported are "
            f"{', '.join(_ARCHITECTURES)}: take another model"
        )
    fields = Fields(where, metadata, f"{family}.")
    _refuse_unsupported(fields)
    tokenizer = Fields(where, metadata, "tokenizer.ggml.")
    base = replace(
        _base(architecture, fields, _vocab_size(where, shapes)),
        rope_scaling=_rope_scaling(fields),
        rope_factors=rope_factors,
        tie_embeddings="output.weight" not in shapes,
        eos_token_ids=_end_tokens(tokenizer),
        bos_token_id=tokenizer.integer("bos_token_id") if tokenizer.has("bos_token_id") else None,
    )
    if architecture == "gemma3":
        return _as_gemma3(base, fields)
    return _with_window(base, fields) if architecture in ("llama", "mistral") else base


def _base(architecture: Architecture, fields: Fields, vocab_size: int) -> ModelConfig:
    num_heads = fields.integer("attention.head_count")
    hidden_size = fields.integer("embedding_length")
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("feed_forward_length"),
        num_layers=fields.integer("block_count"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("attention.head_count_kv", num_heads),
        head_dim=_head_dim(fields, hidden_size // max(num_heads, 1)),
        max_position=fields.integer("context_length"),
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        rope_theta=fields.number("rope.freq_base", 10_000.0),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture in ("qwen3", "gemma3"),
    )


def _head_dim(fields: Fields, default: int) -> int:
    head_dim = fields.integer("attention.key_length", default)
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.integer(key, head_dim) != head_dim:
            raise ModelError(
                f"{fields.where}: {key} differs from the head size {head_dim}, "
                "which is not supported: take another model"
            )
    return head_dim


def _as_gemma3(base: ModelConfig, fields: Fields) -> ModelConfig:
    is_27b = base.num_layers == _GEMMA3_27B_LAYERS
    return replace(
        base,
        rope_theta=fields.number("rope.freq_base", 1_000_000.0),
        rope_local_theta=fields.number("rope.freq_base_swa", 10_000.0),
        post_norms=True,
        activation="gelu_tanh",
        embed_scale=base.hidden_size**0.5,
        query_scale=(base.hidden_size / base.num_heads) ** -0.5 if is_27b else 0.0,
        sliding_window=fields.integer("attention.sliding_window"),
        sliding_layers=_gemma3_sliding(fields, base.num_layers),
        attn_soft_cap=_soft_cap(fields, "attn_logit_softcapping"),
        logit_soft_cap=_soft_cap(fields, "final_logit_softcapping"),
    )


def _gemma3_sliding(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    """From a flag for each layer, or from the period, whose last layer sees everything."""
    key = "attention.sliding_window_pattern"
    if flags := fields.flags(key):
        return flags
    period = max(fields.integer(key, _GEMMA3_PERIOD), 1)
    return tuple((layer + 1) % period != 0 for layer in range(num_layers))


def _with_window(base: ModelConfig, fields: Fields) -> ModelConfig:
    """Mistral is filed under llama; what tells it apart is the window, on every layer."""
    if not fields.integer("attention.sliding_window", 0):
        return base
    return replace(
        base,
        architecture="mistral",
        sliding_window=fields.integer("attention.sliding_window"),
        sliding_layers=(True,) * base.num_layers,
    )


def _soft_cap(fields: Fields, key: str) -> float | None:
    return fields.number(key, 0.0) or None


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    kind = fields.text("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", fields.number("rope.scaling.factor"))
    if kind != "yarn":
        raise ModelError(
            f"{fields.where}: rope.scaling.type is {kind[:40]!r}, supported are none, linear "
            "and yarn: take another model"
        )
    return RopeScaling(
        "yarn",
        fields.number("rope.scaling.factor"),
        fields.integer("rope.scaling.original_context_length", fields.integer("context_length")),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
    )


def _end_tokens(tokenizer: Fields) -> tuple[int, ...]:
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    return tuple(sorted({tokenizer.integer(key) for key in keys if tokenizer.has(key)}))


def _vocab_size(where: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    shape = shapes.get("token_embd.weight")
    if shape is None:
        raise ModelError(f"{where} lacks the tensor token_embd.weight: fetch or convert it again")
    return shape[0]


def _refuse_unsupported(fields: Fields) -> None:
    if fields.integer("expert_count", 0):
        raise ModelError(f"{fields.where} is a mixture of experts: take a dense model")
    for key, neutral in _NEUTRAL_SCALING.items():
        if fields.number(f"rope.scaling.{key}", neutral) != neutral:
            raise ModelError(
                f"{fields.where}: rope.scaling.{key} is not supported: take another model"
            )
