"""ModelConfig: everything about a network that is not a weight; architectures differ only in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from picert.errors import ModelError

Architecture = Literal["llama", "qwen2", "qwen3", "mistral", "gemma3"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Raises ModelError for values that give no frequencies.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_max_position: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1

    def __post_init__(self) -> None:
        attention_factor = 1.0 if self.attention_factor is None else self.attention_factor
        _require("rope factor", self.factor, _is_between(self.factor, 1e-3, 1e6))
        _require("beta_fast", self.beta_fast, _is_between(self.beta_fast, 1e-6, 1e6))
        _require("beta_slow", self.beta_slow, _is_between(self.beta_slow, 1e-6, 1e6))
        _require("attention_factor", attention_factor, _is_between(attention_factor, 1e-3, 1e3))
        low, high = self.low_freq_factor, self.high_freq_factor
        _require("low_freq_factor", low, -1e6 < low < high < 1e6)
        needs_original = self.kind != "linear"
        original = self.original_max_position
        _require("original context", original, 0 < original < 2**31 or not needs_original)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One dense decoder. SmolLM2 is a "llama". Sizes in elements, positions in tokens.

    Raises ModelError for sizes that contradict each other or that no model has, so whoever holds a
    config may compute with it.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    rope_local_theta: float | None = None  # Gemma 3: of the sliding layers (no scaling there)
    rope_factors: tuple[float, ...] = ()  # [head_dim / 2] divisors of the frequencies (rope_freqs)
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm over head_dim on q and k before rope
    post_norms: bool = False  # Gemma 3: norms after attention and ffn, before the residual add
    activation: Literal["silu", "gelu_tanh"] = "silu"
    tie_embeddings: bool = False
    embed_scale: float = 1.0  # Gemma 3: sqrt(hidden_size)
    query_scale: float = 0.0  # softmax scale; 0 is head_dim ** -0.5
    sliding_window: int | None = None  # tokens, the own one among them
    sliding_layers: tuple[bool, ...] = ()  # per layer; empty: none slides
    attn_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    eos_token_ids: tuple[int, ...] = field(default=())
    bos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            _require(name, value, 1 <= value <= most)
        _require("num_kv_heads", self.num_kv_heads, self.num_heads % self.num_kv_heads == 0)
        _require("head_dim", self.head_dim, self.head_dim % 2 == 0)
        _require("rms_norm_eps", self.rms_norm_eps, _is_between(self.rms_norm_eps, 0.0, 1.0))
        for theta in (self.rope_theta, self.rope_local_theta or 2.0):
            _require("rope theta", theta, _is_between(theta, 1.001, 1e12))
        num_factors = len(self.rope_factors)
        _require("rope_freqs length", num_factors, num_factors in (0, self.head_dim // 2))
        for factor in self.rope_factors:
            _require("rope_freqs", factor, _is_between(factor, 1e-3, 1e6))
        num_flags = len(self.sliding_layers)
        _require("sliding layers", num_flags, num_flags in (0, self.num_layers))
        window = self.sliding_window or 0
        _require("sliding_window", window, not any(self.sliding_layers) or 1 <= window < 2**31)
        for cap in (self.attn_soft_cap, self.logit_soft_cap):
            _require("soft cap", cap or 1.0, cap is None or _is_between(cap, 1e-3, 1e6))
        _require("query_scale", self.query_scale, _is_between(self.query_scale, 0.0, 1e3))

    @property
    def softmax_scale(self) -> float:
        """The factor on q·k."""
        return self.query_scale or self.head_dim**-0.5

    def window_of(self, layer: int) -> int | None:
        """Sliding window of a layer in tokens, None where it sees everything."""
        return self.sliding_window if self.is_sliding(layer) else None

    def is_sliding(self, layer: int) -> bool:
        """Whether a layer sees only the window."""
        return bool(self.sliding_layers) and self.sliding_layers[layer]


_LARGEST = {  # beyond any model, and small enough that no product of two overflows anything
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_layers": 4096,
    "num_heads": 4096,
    "num_kv_heads": 4096,
    "head_dim": 4096,
    "max_position": (1 << 31) - 1,
}


def _is_between(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


def _require(name: str, value: object, ok: bool) -> None:
    if not ok:
        raise ModelError(
            f"the model's {name} is {str(value)[:40]}, which no supported model has: "
            "fetch or convert it again"
        )
