"""config.json of a Hugging Face folder -> ModelConfig; old and new spellings of rope alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from picert.errors import ModelError
from picert.models.config import Architecture, ModelConfig, RopeScaling
from picert.models.fields import Fields

_ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
}
_HEAD_DIM: dict[Architecture, int] = {"qwen3": 128, "gemma3": 256}  # where it is not E / H
_ACTIVATION_KEY = {"gemma3": ("hidden_activation", "gelu_pytorch_tanh")}
_DEFAULT_WINDOW = 4096
_GEMMA3_PERIOD = 6  # every sixth layer sees everything


def config_from_json(
    where: str,
    raw: Mapping[str, object],
    generation: Mapping[str, object],
    tensor_names: Collection[str],
) -> ModelConfig:
    """What config.json and generation_config.json say; `tensor_names` (as in the file) tell tying.

    Raises ModelError, naming the key, for an architecture or feature that is not supported.
    """
    fields = Fields(where, raw)
    architecture = _architecture(fields)
    _refuse_unsupported(fields, architecture)
    base = replace(
        _base(architecture, fields),
        rope_scaling=_rope_scaling(fields),
        tie_embeddings=fields.flag("tie_word_embeddings", "lm_head.weight" not in tensor_names),
        eos_token_ids=_end_tokens(fields, Fields("generation_config.json", generation)),
        bos_token_id=next(iter(fields.integers("bos_token_id")), None),
    )
    if architecture == "gemma3":
        return _as_gemma3(base, fields)
    return _with_window(base, fields)


def _architecture(fields: Fields) -> Architecture:
    names = fields.texts("architectures")
    known = [_ARCHITECTURES[name] for name in names if name in _ARCHITECTURES]
    if len(names) != 1 or not known:
        raise ModelError(
            f"{fields.where} is of architecture {', '.join(names)[:80] or 'none'}, supported are "
            f"{', '.join(_ARCHITECTURES)}: take another model"
        )
    return known[0]


def _base(architecture: Architecture, fields: Fields) -> ModelConfig:
    num_heads = fields.integer("num_attention_heads")
    hidden_size = fields.integer("hidden_size")
    head_dim = _HEAD_DIM.get(architecture, hidden_size // max(num_heads, 1))
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=fields.integer("head_dim", head_dim),
        max_position=fields.integer("max_position_embeddings"),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(fields, "full_attention", "rope_theta", 10_000.0),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture in ("qwen3", "gemma3"),
    )


def _as_gemma3(base: ModelConfig, fields: Fields) -> ModelConfig:
    local = _rope_of(fields, "sliding_attention")
    if local.text("rope_type", "default") != "default":
        raise ModelError(f"{local.where}: scaled rope in sliding layers is not supported")
    local_theta = _rope_theta(fields, "sliding_attention", "rope_local_base_freq", 10_000.0)
    query_size = fields.number("query_pre_attn_scalar", 256.0)
    if query_size <= 0:
        raise ModelError(f"{fields.where}: query_pre_attn_scalar is {query_size}, must be over 0")
    return replace(
        base,
        rope_theta=_rope_theta(fields, "full_attention", "rope_theta", 1_000_000.0),
        rope_local_theta=local_theta,
        post_norms=True,
        activation="gelu_tanh",
        embed_scale=base.hidden_size**0.5,
        query_scale=query_size**-0.5,
        sliding_window=fields.integer("sliding_window", _DEFAULT_WINDOW),
        sliding_layers=_gemma3_sliding(fields, base.num_layers),
        attn_soft_cap=fields.number("attn_logit_softcapping", 0.0) or None,
        logit_soft_cap=fields.number("final_logit_softcapping", 0.0) or None,
    )


def _gemma3_sliding(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    if fields.has("layer_types"):
        return _layer_types(fields)
    period = max(fields.integer("sliding_window_pattern", _GEMMA3_PERIOD), 1)
    return tuple((layer + 1) % period != 0 for layer in range(num_layers))


def _with_window(base: ModelConfig, fields: Fields) -> ModelConfig:
    """Mistral slides everywhere unless the window is null; Qwen on some layers, if told to."""
    if base.architecture == "mistral":
        window = fields.integer("sliding_window") if fields.has("sliding_window") else None
        layers = (window is not None,) * base.num_layers
    elif base.architecture in ("qwen2", "qwen3") and fields.flag("use_sliding_window", False):
        window = fields.integer("sliding_window", _DEFAULT_WINDOW)
        first = fields.integer("max_window_layers", 28)
        layers = tuple(layer >= first for layer in range(base.num_layers))
        layers = _layer_types(fields) if fields.has("layer_types") else layers
    else:
        return base
    return replace(base, sliding_window=window, sliding_layers=layers) if any(layers) else base


def _layer_types(fields: Fields) -> tuple[bool, ...]:
    types = fields.texts("layer_types")
    unknown = set(types) - {"sliding_attention", "full_attention"}
    if unknown:
        raise ModelError(
            f"{fields.where}: layer type {min(unknown)[:40]!r} is not supported: take another model"
        )
    return tuple(kind == "sliding_attention" for kind in types)


def _rope_of(fields: Fields, layer_type: str) -> Fields:
    """The rope settings of a layer type: flat, one set per type, or the older rope_scaling."""
    if not fields.has("rope_parameters"):
        is_scaled = layer_type == "full_attention"
        return fields.inner("rope_scaling") if is_scaled else Fields(fields.where, {})
    flat = fields.inner("rope_parameters")
    is_nested = flat.has("full_attention") or flat.has("sliding_attention")
    return flat.inner(layer_type) if is_nested else flat


def _rope_theta(fields: Fields, layer_type: str, old_key: str, default: float) -> float:
    return _rope_of(fields, layer_type).number("rope_theta", fields.number(old_key, default))


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    rope = _rope_of(fields, "full_attention")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelError(f"{rope.where}: partial_rotary_factor is not supported")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", rope.number("factor"))
    original = fields.integer(
        "original_max_position_embeddings",
        rope.integer("original_max_position_embeddings", fields.integer("max_position_embeddings")),
    )
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        return RopeScaling("llama3", rope.number("factor"), original, low, high)
    if kind == "yarn":
        return _yarn(fields, rope, original)
    raise ModelError(
        f"{rope.where}: rope type {kind[:40]!r} is not supported, only default, linear, llama3 "
        "and yarn are: take another model"
    )


def _yarn(fields: Fields, rope: Fields, original: int) -> RopeScaling:
    if not rope.flag("truncate", True):
        raise ModelError(f"{rope.where}: yarn without truncate is not supported")
    if rope.has("mscale") or rope.has("mscale_all_dim"):
        raise ModelError(f"{rope.where}: yarn with mscale is not supported")
    max_position = fields.integer("max_position_embeddings")
    has_factor = rope.has("attention_factor")
    return RopeScaling(
        "yarn",
        rope.number("factor") if rope.has("factor") else max_position / max(original, 1),
        original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.number("attention_factor") if has_factor else None,
    )


def _end_tokens(fields: Fields, generation: Fields) -> tuple[int, ...]:
    ends = {*fields.integers("eos_token_id"), *generation.integers("eos_token_id")}
    return tuple(sorted(ends))


def _refuse_unsupported(fields: Fields, architecture: Architecture) -> None:
    for key in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
        if fields.flag(key, False):
            raise ModelError(f"{fields.where}: {key} is not supported: take another model")
    if fields.has("quantization_config"):
        raise ModelError(
            f"{fields.where} has a quantization_config, which is not supported in safetensors: "
            "take the unquantised folder or a GGUF file"
        )
    key, wanted = _ACTIVATION_KEY.get(architecture, ("hidden_act", "silu"))
    if fields.text(key, wanted) != wanted:
        raise ModelError(
            f"{fields.where}: {key} is {fields.text(key)[:40]!r}, supported is {wanted}: "
            "take another model"
        )
