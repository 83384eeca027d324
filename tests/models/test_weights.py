"""Checkpoints: exactly the tensors that the config asks for, and who they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_gguf import Extras

from picert.errors import ModelError
from picert.models.weights import (
    Checkpoint,
    TokenizerFiles,
    TokenizerMetadata,
    dequantize,
    load_checkpoint,
)


def edited(folder: Path, changes: dict[str, torch.Tensor | None]) -> Path:
    """The folder with tensors replaced, added or (None) taken away."""
    state = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")
    return folder


def values(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: dequantize(tensor) for name, tensor in checkpoint.tensors.items()}


@pytest.mark.parametrize("arch", tiny_models.ARCHS)
def test_gguf_and_safetensors_of_a_model_agree(arch: str, tmp_path: Path) -> None:
    folder = load_checkpoint(tiny_models.make_safetensors(tmp_path, arch))
    gguf = load_checkpoint(tiny_models.make_gguf(tmp_path, arch, "F32"))
    assert list(gguf.tensors) == list(folder.tensors)
    for name, ours in values(gguf).items():
        np.testing.assert_allclose(ours, values(folder)[name], rtol=1e-6, err_msg=name)
    model = tiny_models.make_model(arch)
    assert gguf.num_parameters == folder.num_parameters == model.num_parameters()


@pytest.mark.parametrize(
    ("arch", "name", "canonical"),
    [
        ("llama", "model.norm.weight", "final_norm.weight"),
        ("llama", "lm_head.weight", "lm_head.weight"),
        ("qwen2", "model.layers.2.self_attn.k_proj.bias", "layers.2.k.bias"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", "layers.0.q_norm.weight"),
        (
            "gemma3",
            "model.layers.6.post_feedforward_layernorm.weight",
            "layers.6.post_ffn_norm.weight",
        ),
    ],
)
def test_missing_tensor_is_refused_by_name(
    arch: str, name: str, canonical: str, tmp_path: Path
) -> None:
    folder = edited(tiny_models.make_safetensors(tmp_path, arch), {name: None})
    with pytest.raises(ModelError, match=f"lacks the tensor {canonical}: fetch or convert"):
        load_checkpoint(folder)


def test_unexpected_tensor_is_refused_by_name(tmp_path: Path) -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}
    folder = edited(tiny_models.make_safetensors(tmp_path, "llama"), bias)
    with pytest.raises(ModelError, match=r"layers\.0\.q\.bias, which its config \(llama\)"):
        load_checkpoint(folder)


def test_a_layer_too_many_is_refused(tmp_path: Path) -> None:
    extra = Extras(metadata={"qwen2.block_count": 2})
    path = tiny_models.make_gguf(tmp_path, "qwen2", extras=extra)
    with pytest.raises(ModelError, match=r"has the tensor layers\.2\."):
        load_checkpoint(path)


@pytest.mark.parametrize("shape", [(160, 63), (64, 160), (160 * 64,), (160, 64, 1)])
def test_misshaped_tensor_is_refused_by_name(shape: tuple[int, ...], tmp_path: Path) -> None:
    wrong = {"model.layers.1.mlp.up_proj.weight": torch.zeros(shape)}
    folder = edited(tiny_models.make_safetensors(tmp_path, "llama"), wrong)
    with pytest.raises(ModelError, match=r"1\.up\.weight has shape .* asks for \(160, 64\)"):
        load_checkpoint(folder)


def test_fingerprint_is_equal_for_equal_files_only(tmp_path: Path) -> None:
    path = tiny_models.make_gguf(tmp_path, "llama")
    copy = shutil.copy(path, tmp_path / "copy.gguf")
    other = tiny_models.make_gguf(tmp_path, "llama", "Q4_0")
    first, same, different = (load_checkpoint(p).fingerprint for p in (path, copy, other))
    assert len(first) == 64
    assert first == same != different


def test_fingerprint_of_a_folder_sees_config_and_weights(tmp_path: Path) -> None:
    folder = tiny_models.make_safetensors(tmp_path, "llama")
    first = load_checkpoint(folder).fingerprint
    assert load_checkpoint(shutil.copytree(folder, tmp_path / "copy")).fingerprint == first
    config = folder / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-05"))
    assert load_checkpoint(folder).fingerprint != first


def test_tokenizer_source_of_a_folder_is_the_folder(tmp_path: Path) -> None:
    folder = tiny_models.make_safetensors(tmp_path, "llama")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.tokenizer_source == TokenizerFiles(folder)
    assert checkpoint.name == "tiny-llama"


def test_tokenizer_source_of_gguf_is_its_metadata(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.make_gguf(tmp_path, "qwen2", "Q4_0"))
    source = checkpoint.tokenizer_source
    assert isinstance(source, TokenizerMetadata)
    assert source.values["tokenizer.ggml.pre"] == "qwen2"
    assert source.values["general.architecture"] == "qwen2"
    assert all(key.startswith(("tokenizer.", "general.")) for key in source.values)
    assert checkpoint.name == "tiny-qwen2-Q4_0"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.gguf is not there, wanted a GGUF file"):
        load_checkpoint(tmp_path / "nothing.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelError, match="is empty"):
        load_checkpoint(tmp_path / "empty.gguf")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load_checkpoint(tmp_path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="wanted a GGUF file"):
        load_checkpoint(tmp_path / "pipe.gguf")
    folder = tiny_models.make_safetensors(tmp_path, "llama")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match=r"config\.json is no file"):
        load_checkpoint(folder)


def test_one_file_of_a_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = tiny_models.make_safetensors(tmp_path, "llama")
    with pytest.raises(ModelError, match=f"name the folder {folder}"):
        load_checkpoint(folder / "model.safetensors")
