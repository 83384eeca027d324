"""Safetensors folders: what they mean, what is refused, and that no byte of theirs can do harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hostile_bytes import DAMAGE, Damage, load_or_refuse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from picert.errors import ModelError
from picert.models.config import RopeScaling
from picert.models.raw_tensor import dequantize
from picert.models.safetensors import read_folder

HYPOTHESIS = settings(
    max_examples=200,
    deadline=2000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_models.make_safetensors(tmp_path, "llama")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test may change."""
    return tiny_models.make_safetensors(tmp_path_factory.mktemp("sound"), "gemma3")


def change_config(folder: Path, changes: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def write_header(folder: Path, header: object, body: bytes = b"\0" * 64) -> Path:
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    return folder


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# --- what it means ---


def test_values_are_the_files_own(llama: Path) -> None:
    theirs = load_file(llama / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    down = read_folder(llama).tensors["layers.1.down.weight"]
    assert not down.data.flags.owndata
    np.testing.assert_array_equal(dequantize(down), theirs.numpy())


def test_gemma_norms_become_multipliers(tmp_path: Path) -> None:
    folder = tiny_models.make_safetensors(tmp_path, "gemma3", dtype=torch.bfloat16)
    theirs = load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_norm.weight"]
    q_norm = read_folder(folder).tensors["layers.0.q_norm.weight"]
    np.testing.assert_array_equal(dequantize(q_norm), theirs.float().numpy() + 1)


def test_shards_are_one_model(llama: Path, tmp_path: Path) -> None:
    whole = read_folder(llama).tensors
    sharded = tiny_models.make_safetensors(tmp_path / "s", "llama", max_shard_size="100KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    parts = read_folder(sharded).tensors
    assert parts.keys() == whole.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(parts[name].data, tensor.data)


def test_old_spelling_of_rope_means_the_same(sound: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "old")
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_parameters": None}
    old |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    old |= {"layer_types": None, "sliding_window_pattern": 6}
    config = read_folder(change_config(folder, old)).config
    new = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
    new |= {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    other = shutil.copytree(sound, tmp_path / "new")
    assert read_folder(change_config(other, {"rope_parameters": new})).config == config
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    assert config.rope_local_theta == 1e4


def test_end_tokens_come_from_both_configs(llama: Path) -> None:
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2]}))
    assert read_folder(llama).config.eos_token_ids == (2, 7)


def test_tying_is_told_by_the_weights_when_the_config_is_silent(tmp_path: Path) -> None:
    for arch, is_tied in (("llama", False), ("smollm2", True)):
        folder = tiny_models.make_safetensors(tmp_path, arch)
        config = read_folder(change_config(folder, {"tie_word_embeddings": None})).config
        assert config.tie_embeddings is is_tied


def test_a_copy_of_tied_embeddings_is_left_out(tmp_path: Path) -> None:
    folder = tiny_models.make_safetensors(tmp_path, "qwen2")
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, folder / "model.safetensors")
    assert "lm_head.weight" not in read_folder(folder).tensors


def test_derived_frequencies_of_old_files_are_left_out(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(state, llama / "model.safetensors")
    assert len(read_folder(llama).tensors) == len(state) - 1


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel, supported are LlamaFor"),
        ({"architectures": None}, "lacks architectures"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "64"}, "hidden_size is '64', must be a whole number"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_layers is -1"),
        ({"num_key_value_heads": 3}, "num_kv_heads is 3"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"hidden_act": "relu"}, "'relu', supported is silu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' is not"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "rope factor is 0"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rope_parameters is 'list', must be an object"),
        ({"eos_token_id": "end"}, "eos_token_id is 'end'"),
    ],
)
def test_config_that_is_not_supported_is_refused(
    llama: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        read_folder(change_config(llama, changes))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff{}", b"[" * 100_000, b'"' + b"9" * 9999]
)
def test_config_that_is_no_json_object_is_refused(llama: Path, text: bytes) -> None:
    (llama / "config.json").write_bytes(text)
    with pytest.raises(ModelError, match=r"config\.json (is not sound JSON|holds no JSON object)"):
        read_folder(llama)


def test_pickled_weights_are_refused_with_the_way_out(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"\.bin.*convert it with transformers' save_pretrained"):
        read_folder(llama)


def test_a_folder_without_weights_or_config_is_refused(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        read_folder(llama)
    (llama / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json cannot be read \(No such file"):
        read_folder(llama)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "weights.bin", ""])
def test_an_index_that_points_elsewhere_is_refused(llama: Path, name: str) -> None:
    (llama / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": name}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="wanted one in its own folder"):
        read_folder(llama)


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_models.make_safetensors(tmp_path, "llama", max_shard_size="100KB")
    lost = sorted(folder.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=lost.name):
        read_folder(folder)


HOSTILE_HEADERS: dict[str, dict[str, Any]] = {
    "beyond the file": {"t": entry([16], 64, 128)},
    "backwards": {"t": entry([16], 64, 0)},
    "shape and range differ": {"t": entry([15], 0, 64)},
    "negative size": {"t": entry([-4, -4], 0, 64)},
    "zero size": {"t": entry([0], 0, 0)},
    "no shape": {"t": entry([], 0, 4)},
    "huge shape": {"t": entry([2**62, 2**62, 2**62], 0, 64)},
    "many dimensions": {"t": entry([2] * 100_000, 0, 64)},
    "overlap": {"t": entry([8], 0, 32), "u": entry([8], 16, 48)},
    "not an object": {"t": [1]},
    "three offsets": {"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}},
    "offsets of text": {"t": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}},
    "no dtype": {"t": {"shape": [1], "data_offsets": [0, 4]}},
    "eight bits": {"t": entry([64], 0, 64, "F8_E4M3")},
    "name of no tensor": {"t": entry([16], 0, 64)},
}


@pytest.mark.parametrize("what", HOSTILE_HEADERS)
def test_hostile_header_is_refused(llama: Path, what: str) -> None:
    folder = write_header(llama, HOSTILE_HEADERS[what])
    with pytest.raises(ModelError, match=r"tensor|dtype"):
        read_folder(folder)
    assert load_or_refuse(folder) is None  # within memory


def test_refusal_of_a_type_is_one_line_whatever_its_name(llama: Path) -> None:
    folder = write_header(llama, {"t": entry([2], 0, 8, "F\n32")})
    with pytest.raises(ModelError, match=r"type 'F\\n32', supported are") as error:
        read_folder(folder)
    assert "\n" not in error.value.message


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_header_length_beyond_the_file_is_refused(llama: Path, length: int) -> None:
    (llama / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}" * 50)
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        read_folder(llama)


def mutable_copy(sound: Path, tmp_path: Path) -> Path:
    """A copy made once for all examples of a test."""
    folder = tmp_path / "mutated"
    return folder if folder.exists() else shutil.copytree(sound, folder)


@HYPOTHESIS
@given(damage=DAMAGE)
def test_mutated_weights_load_or_are_refused(damage: Damage, sound: Path, tmp_path: Path) -> None:
    folder = mutable_copy(sound, tmp_path)
    whole = (sound / "model.safetensors").read_bytes()
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    (folder / "model.safetensors").write_bytes(damage.of(whole, header_bytes))
    load_or_refuse(folder)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, 10**300, 10**3000, 1e308, -0.0, 0.5])
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=5)
    | st.sampled_from(["default", "linear", "llama3", "yarn", "sliding_attention"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["rope_type", "rope_theta", "factor", "full_attention", "sliding_attention", "type"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = (
    *("architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    *("rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq"),
    *("layer_types", "sliding_window", "sliding_window_pattern", "query_pre_attn_scalar"),
    *("tie_word_embeddings", "eos_token_id", "bos_token_id", "hidden_activation"),
    *("attn_logit_softcapping", "final_logit_softcapping", "attention_bias"),
)
CHANGES = st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3)


@HYPOTHESIS
@given(changes=CHANGES)
def test_mutated_config_loads_or_is_refused(
    changes: dict[str, Any], sound: Path, tmp_path: Path
) -> None:
    folder = mutable_copy(sound, tmp_path)
    config = json.loads((sound / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    load_or_refuse(folder)


@HYPOTHESIS
@given(damage=DAMAGE)
def test_mutated_config_bytes_load_or_are_refused(
    damage: Damage, sound: Path, tmp_path: Path
) -> None:
    folder = mutable_copy(sound, tmp_path)
    whole = (sound / "config.json").read_bytes()
    (folder / "config.json").write_bytes(damage.of(whole, len(whole)))
    load_or_refuse(folder)
