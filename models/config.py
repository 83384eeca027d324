"""ModelConfig: everything about a network that is not a weight; architectures differ only in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Architecture = Literal["llama", "qwen2", "qwen3", "mistral", "gemma3"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_max_position: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One dense decoder. SmolLM2 is a "llama". Sizes in elements, positions in tokens."""

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
    rope_factors: tuple[
        float, ...
    ] = ()  # [head_dim / 2] divisors of the frequencies, as GGUF's rope_freqs holds them
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm over head_dim on q and k before rope
    post_norms: bool = (
        False  # Gemma 3: norms after attention and after the ffn, before the residual add
    )
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

    @property
    def softmax_scale(self) -> float:
        """The factor on q·k."""
        return self.query_scale or self.head_dim**-0.5

    def window_of(self, layer: int) -> int | None:
        """Sliding window of a layer in tokens, None where it sees everything."""
        return self.sliding_window if self.sliding_layers and self.sliding_layers[layer] else None
