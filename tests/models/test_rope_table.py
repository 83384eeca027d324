"""Rotary tables against transformers' own, and what has no twin there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from picert.errors import ModelError
from picert.models.config import ModelConfig, RopeScaling
from picert.models.rope_table import inv_freq

ORIGINAL, THETA = 8192, 500_000.0


def config(**fields: object) -> ModelConfig:
    base = {
        "architecture": "llama",
        "vocab_size": 10,
        "hidden_size": 256,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 128,
        "max_position": 4 * ORIGINAL,
        "rms_norm_eps": 1e-6,
        "rope_theta": THETA,
    }
    return ModelConfig(**{**base, **fields})


def theirs(kind: str, **parameters: float) -> tuple[np.ndarray, float]:
    rope = {"rope_type": kind, "rope_theta": THETA, **parameters}
    if kind != "linear":
        rope["original_max_position_embeddings"] = ORIGINAL
    hf = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=4 * ORIGINAL,
        rope_parameters=rope,
    )
    table, factor = ROPE_INIT_FUNCTIONS[kind](hf, torch.device("cpu"))
    return table.numpy(), factor


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("linear", {"factor": 4.0}),
        ("llama3", {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("llama3", {"factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0}),
        ("yarn", {"factor": 4.0}),
        ("yarn", {"factor": 40.0, "beta_fast": 16.0, "beta_slow": 2.0}),
        ("yarn", {"factor": 4.0, "attention_factor": 0.75}),
    ],
)
def test_scaled_table_equals_transformers(kind: str, parameters: dict[str, float]) -> None:
    original = 0 if kind == "linear" else ORIGINAL
    scaling = RopeScaling(kind=kind, original_max_position=original, **parameters)
    table, factor = inv_freq(config(rope_scaling=scaling), local=False)
    their_table, their_factor = theirs(kind, **parameters)
    np.testing.assert_allclose(table, their_table, rtol=2e-6)
    assert factor == pytest.approx(their_factor)


def test_plain_table_falls_from_one_by_a_constant_ratio() -> None:
    table, factor = inv_freq(config(), local=False)
    assert table.dtype == np.float32
    assert table.shape == (64,)
    assert table[0] == 1.0
    assert factor == 1.0
    np.testing.assert_allclose(table[1:] / table[:-1], THETA ** (-2 / 128), rtol=1e-6)


def test_factors_from_gguf_stand_for_llama3_scaling() -> None:
    scaling = RopeScaling("llama3", 8.0, ORIGINAL)
    scaled, _ = inv_freq(config(rope_scaling=scaling), local=False)
    plain, _ = inv_freq(config(), local=False)
    factors = tuple((plain / scaled).tolist())
    table, _ = inv_freq(config(rope_factors=factors), local=False)
    np.testing.assert_allclose(table, scaled, rtol=1e-6)


def test_local_layers_have_their_own_theta_and_no_scaling() -> None:
    scaling = RopeScaling("linear", 8.0)
    both = config(rope_local_theta=10_000.0, rope_scaling=scaling)
    local, _ = inv_freq(both, local=True)
    np.testing.assert_array_equal(local, inv_freq(config(rope_theta=10_000.0), local=False)[0])
    full, _ = inv_freq(both, local=False)
    np.testing.assert_allclose(full, inv_freq(config(), local=False)[0] / 8.0, rtol=1e-6)


def test_without_a_local_theta_all_layers_share_a_table() -> None:
    for ours, same in zip(inv_freq(config(), True), inv_freq(config(), False), strict=True):
        np.testing.assert_array_equal(ours, same)


@pytest.mark.parametrize(
    "fields",
    [
        {"factor": 0.0},
        {"factor": float("nan")},
        {"factor": 2.0, "original_max_position": 0},
        {"factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
        {"factor": 2.0, "beta_fast": 0.0},
    ],
)
def test_scaling_that_gives_no_table_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ModelError):
        RopeScaling(**{"kind": "llama3", "original_max_position": 64, **fields})
