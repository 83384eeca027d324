"""Rotary frequencies with every kind of scaling: the only home of these formulas.

Both decoders, torch and native, take their tables from here. All arithmetic is in float64 and
rounded once.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from picert.models.config import ModelConfig, RopeScaling

Float64Array = NDArray[np.float64]


def inv_freq(config: ModelConfig, local: bool) -> tuple[NDArray[np.float32], float]:
    """Radians per position of each rope pair, [head_dim / 2], and the factor on cos and sin.

    `local` asks for those of Gemma 3's sliding layers, which are never scaled; architectures
    without a theta of their own for them use the same table everywhere.
    """
    if local and config.rope_local_theta is not None:
        return _plain(config.rope_local_theta, config.head_dim).astype(np.float32), 1.0
    base = _plain(config.rope_theta, config.head_dim)
    if config.rope_factors:
        base = base / np.asarray(config.rope_factors, dtype=np.float64)
    scaling = config.rope_scaling
    if scaling is None:
        return base.astype(np.float32), 1.0
    if scaling.kind == "linear":
        return (base / scaling.factor).astype(np.float32), 1.0
    if scaling.kind == "llama3":
        return _llama3(base, scaling).astype(np.float32), 1.0
    return _yarn(base, config.rope_theta, scaling).astype(np.float32), _yarn_factor(scaling)


def _plain(theta: float, head_dim: int) -> Float64Array:
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _llama3(base: Float64Array, scaling: RopeScaling) -> Float64Array:
    """Slow pairs are divided by the factor, fast ones kept, those between blended."""
    turns = scaling.original_max_position * base / (2 * math.pi)  # over the trained context
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return base * (keep + (1.0 - keep) / scaling.factor)


def _yarn(base: Float64Array, theta: float, scaling: RopeScaling) -> Float64Array:
    """As llama3, but the blend is linear in the pair's index between two numbers of turns."""
    half = len(base)

    def pair_with(turns: float) -> float:
        ratio = scaling.original_max_position / (turns * 2 * math.pi)
        return half * math.log(ratio) / math.log(theta)

    low = max(math.floor(pair_with(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_with(scaling.beta_slow)), 2 * half - 1)
    width = high - low if high != low else 0.001
    stretch = np.clip((np.arange(half) - low) / width, 0.0, 1.0)
    return base * (1.0 - stretch + stretch / scaling.factor)


def _yarn_factor(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1.0 else 1.0
