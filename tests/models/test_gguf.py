"""GGUF files: what they mean, what is refused, and that no byte of theirs can do harm."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from hostile_bytes import DAMAGE, Damage, load_or_refuse
from hypothesis import HealthCheck, given, settings
from tiny_gguf import Extras

from picert.errors import ModelError
from picert.models.config import RopeScaling
from picert.models.gguf import dequantize, read_gguf
from picert.models.gguf_header import MAX_STRING_BYTES
from picert.models.raw_tensor import BLOCK_FORMATS, RawTensor

UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def tensor_info(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


ARCHITECTURE = key("general.architecture", STRING, text("llama"))


def write_gguf(
    folder: Path,
    keys: list[bytes],
    tensors: list[bytes] | None = None,
    *,
    head: bytes = b"GGUF" + struct.pack("<I", 3),
    data: bytes = b"",
) -> Path:
    tensors = tensors or []
    header = head + struct.pack("<QQ", len(tensors), len(keys)) + b"".join([*keys, *tensors])
    path = folder / "some.gguf"
    path.write_bytes(header + b"\0" * (-len(header) % 32) + data)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(tmp_path_factory.mktemp("gguf"), "llama", "Q8_0")


# --- what it means ---


def test_config_of_llama(tiny: Path) -> None:
    config = read_gguf(tiny).config
    assert config.architecture == "llama"
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (384, 64, 160)
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (3, 4, 2)
    assert (config.head_dim, config.max_position) == (16, 512)
    assert config.eos_token_ids == (2,)
    assert config.bos_token_id == 0
    assert not config.tie_embeddings


def test_config_of_gemma3(tmp_path: Path) -> None:
    config = read_gguf(tiny_models.make_gguf(tmp_path, "gemma3")).config
    assert config.sliding_layers == (True, True, True, True, True, False, True)
    assert (config.window_of(0), config.window_of(5)) == (16, None)
    assert (config.rope_theta, config.rope_local_theta) == (1e6, 1e4)
    assert config.embed_scale == 8.0
    assert config.activation == "gelu_tanh"
    assert config.post_norms
    assert config.qk_norm
    assert config.tie_embeddings


def test_a_llama_file_with_a_window_is_mistral(tmp_path: Path) -> None:
    config = read_gguf(tiny_models.make_gguf(tmp_path, "mistral")).config
    assert config.architecture == "mistral"
    assert config.sliding_layers == (True, True, True)


def test_yarn_is_read(tmp_path: Path) -> None:
    rope = {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 1e4,
        "original_max_position_embeddings": 128,
    }
    path = tiny_models.make_gguf(tmp_path, "qwen3", rope_parameters=rope)
    assert read_gguf(path).config.rope_scaling == RopeScaling("yarn", 4.0, 128)


def test_rope_freqs_become_factors(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}
    path = tiny_models.make_gguf(tmp_path, "llama", extras=Extras(tensors=extra))
    model = read_gguf(path)
    assert model.config.rope_factors == tuple(range(1, 9))
    assert "rope_freqs.weight" not in model.tensors


def test_metadata_keeps_the_vocabulary(tiny: Path) -> None:
    metadata = read_gguf(tiny).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    assert tokens[:3] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert len(tokens) == 384
    assert metadata["tokenizer.ggml.add_bos_token"] is False


def test_tensors_are_views_of_the_mapped_file(tiny: Path) -> None:
    down = read_gguf(tiny).tensors["layers.0.down.weight"]
    assert not down.data.flags.owndata
    assert not down.data.flags.writeable
    assert (down.dtype, down.shape, down.row_bytes) == ("Q8_0", (64, 160), 170)


@pytest.mark.parametrize("dtype", BLOCK_FORMATS)
def test_every_type_dequantises_to_its_shape(dtype: str) -> None:
    block_values, block_bytes = BLOCK_FORMATS[dtype]
    data = np.ones(3 * 2 * block_bytes, dtype=np.uint8)
    values = dequantize(RawTensor(dtype, (3, 2 * block_values), data))
    assert values.dtype == np.float32
    assert values.shape == (3, 2 * block_values)
    assert values.std() >= 0.0
    np.testing.assert_array_equal(values[0], values[2])


def test_q8_0_is_scale_times_code() -> None:
    codes = np.arange(-16, 16, dtype=np.int8)
    block = np.float16(0.5).tobytes() + codes.tobytes()
    values = dequantize(RawTensor("Q8_0", (1, 32), np.frombuffer(block, np.uint8)))
    np.testing.assert_array_equal(values[0], codes * np.float32(0.5))


def test_q4_1_is_scale_times_code_plus_minimum() -> None:
    low, high = np.arange(16), np.arange(16)[::-1]
    packed = (low | high << 4).astype(np.uint8)
    block = np.array([0.25, -2.0], np.float16).tobytes() + packed.tobytes()
    values = dequantize(RawTensor("Q4_1", (1, 32), np.frombuffer(block, np.uint8)))
    np.testing.assert_array_equal(values[0], 0.25 * np.concatenate((low, high)) - 2.0)


# --- what is refused ---


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"GGML" + struct.pack("<I", 3), "begins with b'GGML'"),
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
    ],
)
def test_another_format_is_refused(head: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        read_gguf(write_gguf(tmp_path, [ARCHITECTURE], head=head))


HOSTILE_KEYS = {
    "string longer than the file": key("a", STRING, struct.pack("<Q", 10_000)),
    "string of 2^64 - 1 bytes": key("a", STRING, struct.pack("<Q", 2**64 - 1)),
    "string over the limit": key("a", STRING, struct.pack("<Q", MAX_STRING_BYTES + 1)),
    "string that is not UTF-8": key("a", STRING, text(b"\xff\xfe")),
    "array of 2^63 strings": key("a", ARRAY, struct.pack("<IQ", STRING, 2**63)),
    "array of 2^19 missing strings": key("a", ARRAY, struct.pack("<IQ", STRING, 2**19)),
    "array of strings cut short": key("a", ARRAY, struct.pack("<IQQ", STRING, 2, 500)),
    "array of 2^62 doubles": key("a", ARRAY, struct.pack("<IQ", 12, 2**62)),
    "array of 2^19 missing doubles": key("a", ARRAY, struct.pack("<IQ", 12, 2**19)),
    "array of arrays": key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", 4, 0)),
    "unknown value type": key("a", 13, b"\0" * 8),
    "bool of 2": key("a", BOOL, b"\x02"),
    "key twice": ARCHITECTURE,
    "alignment 0": key("general.alignment", UINT32, struct.pack("<I", 0)),
    "alignment 48": key("general.alignment", UINT32, struct.pack("<I", 48)),
    "alignment 2^31": key("general.alignment", UINT32, struct.pack("<I", 2**31)),
    "alignment text": key("general.alignment", STRING, text("32")),
}


@pytest.mark.parametrize("what", HOSTILE_KEYS)
def test_hostile_key_is_refused(what: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path, [ARCHITECTURE, HOSTILE_KEYS[what]])
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_gguf(path)
    assert load_or_refuse(path) is None  # within memory


HOSTILE_TENSORS = {
    "beyond the file": [tensor_info("t", (64,), offset=2**40)],
    "offset that wraps": [tensor_info("t", (8,), offset=2**64 - 32)],
    "size that wraps": [tensor_info("t", (2**33, 2**33))],
    "offset not aligned": [tensor_info("t", (1,), offset=4)],
    "no dimension": [tensor_info("t", ())],
    "five dimensions": [tensor_info("t", (1, 1, 1, 1, 1))],
    "zero size": [tensor_info("t", (0, 4))],
    "part of a block": [tensor_info("t", (31,), kind=8)],
    "name twice": [tensor_info("t", (8,)), tensor_info("t", (8,), offset=32)],
    "overlap": [tensor_info("t", (16,)), tensor_info("u", (8,), offset=32)],
}


@pytest.mark.parametrize("what", HOSTILE_TENSORS)
def test_hostile_tensor_table_is_refused(what: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path, [ARCHITECTURE], HOSTILE_TENSORS[what], data=b"\0" * 256)
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_gguf(path)


@pytest.mark.parametrize("counts", [(2**64 - 1, 0), (0, 2**64 - 1), (2**30, 2**30), (2**16, 2**16)])
def test_counts_beyond_the_file_are_refused_at_once(
    counts: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + ARCHITECTURE)
    with pytest.raises(ModelError, match=r"tensors and \d* ?keys"):
        read_gguf(path)
    assert load_or_refuse(path) is None


def test_unsupported_quantisation_is_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path, [ARCHITECTURE], [tensor_info("t", (256,), kind=23)])
    with pytest.raises(ModelError, match=r"'t' is of type IQ4_XS, supported are F32, .*Q6_K"):
        read_gguf(path)


def test_unsupported_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path, [key("general.architecture", STRING, text("mamba"))])
    with pytest.raises(ModelError, match=r"architecture 'mamba', supported are llama"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("llama.expert_count", 8, "mixture of experts"),
        ("llama.rope.dimension_count", 8, "rope.dimension_count differs"),
        ("llama.rope.scaling.type", "longrope", "'longrope', supported are none, linear and yarn"),
        ("llama.attention.head_count", 3, "num_kv_heads"),
        ("llama.block_count", 2**31, "num_layers"),
        ("llama.rope.freq_base", float("nan"), "freq_base is 'nan', must be a finite number"),
        ("llama.context_length", "many", "'many', must be a whole number"),
    ],
)
def test_unsupported_metadata_is_refused(
    name: str, value: object, said: str, tmp_path: Path
) -> None:
    path = tiny_models.make_gguf(tmp_path, "llama", extras=Extras(metadata={name: value}))
    with pytest.raises(ModelError, match=said):
        read_gguf(path)


def test_missing_metadata_is_refused_by_name(tmp_path: Path) -> None:
    tensors = [tensor_info("token_embd.weight", (8, 4))]
    path = write_gguf(tmp_path, [ARCHITECTURE], tensors, data=b"\0" * 128)
    with pytest.raises(ModelError, match=r"lacks llama\.attention\.head_count"):
        read_gguf(path)


def test_unknown_tensor_is_refused_by_name(tmp_path: Path) -> None:
    extra = {"blk.0.attn_q.lora_a": np.zeros(8, np.float32)}
    path = tiny_models.make_gguf(tmp_path, "llama", extras=Extras(tensors=extra))
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.lora_a"):
        read_gguf(path)


def test_a_file_cut_short_anywhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    whole = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (0, 3, 4, 23, 24, 1000, 9000, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_gguf(path)


@settings(
    max_examples=250,
    deadline=2000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damage=DAMAGE)
def test_mutated_bytes_load_or_are_refused(damage: Damage, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    path.write_bytes(damage.of(tiny.read_bytes(), header_bytes=12_000))
    checkpoint = load_or_refuse(path)
    for tensor in checkpoint.tensors.values() if checkpoint else ():
        assert len(tensor.data) == tensor.row_bytes * tensor.num_values // tensor.shape[-1]
