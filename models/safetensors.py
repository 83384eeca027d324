"""Safetensors folders: config.json and one or more weight files, mapped, under canonical names.

Headers are hostile until proven otherwise: sizes, ranges and names are checked before use.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from picert.errors import ModelError
from picert.models.config import ModelConfig
from picert.models.fields import Fields
from picert.models.hf_config import config_from_json
from picert.models.raw_tensor import BLOCK_FORMATS, RawTensor, dequantize

MAX_JSON_BYTES = 8 << 20
_DTYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
_OUTER_NAMES = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "final_norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
_GEMMA3_NAMES = {
    **_LAYER_NAMES,
    "post_attention_layernorm": "post_attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffn_norm",
}
_LAYER_TENSOR = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,4})\.([\w.]+)\.(weight|bias)")
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # in old files


@dataclass(frozen=True, slots=True)
class SafetensorsModel:
    """A folder, mapped and understood. `tensors` may hold more or less than `config` wants."""

    config: ModelConfig
    tensors: dict[str, RawTensor]
    fingerprint: str


def read_folder(folder: Path) -> SafetensorsModel:
    """Map a folder's weight files; its tensors stay on disk until they are read.

    Raises ModelError for files that are missing or damaged and for what is not supported.
    """
    raw_config = _read_json(folder / "config.json")
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    raw: dict[str, RawTensor] = {}
    for path in _weight_files(folder):
        header, tensors = _read_weights(path)
        digest.update(header)
        if twice := raw.keys() & tensors.keys():
            raise ModelError(f"{folder} holds {min(twice)[:80]!r} in two files: fetch it again")
        raw.update(tensors)
    generation_path = folder / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else {}
    where = f"{folder.name}/config.json"
    config = config_from_json(where, raw_config, generation, raw.keys())
    return SafetensorsModel(config, _canonical(raw, config, folder), digest.hexdigest())


def _weight_files(folder: Path) -> list[Path]:
    """The files to read: the one, or those that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index} has no weight_map: fetch it again")
        names = Fields(str(index), {"weight_map": list(weight_map.values())}).texts("weight_map")
        return [_shard(folder, name, index) for name in sorted(set(names))]
    if any(folder.glob("*.bin")):
        raise ModelError(
            f"{folder} holds its weights as .bin, which may run code when read: convert it with "
            "transformers' save_pretrained, which writes safetensors"
        )
    raise ModelError(f"{folder} has no model.safetensors: fetch the model again")


def _shard(folder: Path, name: str, index: Path) -> Path:
    if not re.fullmatch(r"[\w.-]+\.safetensors", name):
        raise ModelError(f"{index} names the file {name[:80]!r}, wanted one in its own folder")
    if not (folder / name).is_file():
        raise ModelError(f"{folder} lacks {name[:80]}, which its index names: fetch it again")
    return folder / name


def _read_json(path: Path) -> dict[str, object]:
    try:
        if not stat.S_ISREG(path.stat().st_mode) or path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path} is no file of at most {MAX_JSON_BYTES} bytes: fetch it again")
        return _parse_object(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): fetch it again") from None


def _parse_object(text: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        reason = str(error).splitlines()[0][:100]
        raise ModelError(f"{where} is not sound JSON ({reason}): fetch the model again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{where} holds no JSON object: fetch the model again")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key comes twice")
    return result


def _read_weights(path: Path) -> tuple[bytes, dict[str, RawTensor]]:
    """One file's header bytes (its length in front) and its tensors under the file's own names."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): fetch the model again") from None
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(len(data) - 8, MAX_JSON_BYTES):
        raise ModelError(
            f"{path} is not a whole safetensors file: its header of {length} bytes does not fit "
            f"its {len(data)} bytes: fetch it again"
        )
    header = data[8 : 8 + length]
    entries = _parse_object(header, f"the header of {path}")
    entries.pop("__metadata__", None)
    body = np.frombuffer(data, dtype=np.uint8)[8 + length :]
    tensors = {name: _tensor(entry, name, body, path) for name, entry in entries.items()}
    _refuse_overlaps(tensors, path)
    return len(data).to_bytes(8, "little") + header, tensors


def _tensor(entry: object, name: str, body: NDArray[np.uint8], path: Path) -> RawTensor:
    if not isinstance(entry, dict):
        raise ModelError(f"{path}: tensor {name[:80]!r} is not described: fetch it again")
    fields = Fields(f"{path}: tensor {name[:80]!r}", entry)
    dtype = _DTYPES.get(fields.text("dtype"))
    if dtype is None:
        raise ModelError(
            f"{path}: tensor {name[:80]!r} is of type {fields.text('dtype')[:20]!r}, supported "
            f"are {', '.join(_DTYPES)}: take another file"
        )
    shape, offsets = fields.integers("shape"), fields.integers("data_offsets")
    if not 1 <= len(shape) <= 8 or any(n < 1 for n in shape) or len(offsets) != 2:
        raise ModelError(f"{path}: tensor {name[:80]!r} has no sane shape: fetch it again")
    (begin, end), size = offsets, prod(shape) * BLOCK_FORMATS[dtype][1]
    if not 0 <= begin <= end <= len(body) or end - begin != size:
        raise ModelError(
            f"{path}: tensor {name[:80]!r} should be {size} bytes at {begin} to {end} of "
            f"{len(body)}: the file is cut short or damaged, fetch it again"
        )
    return RawTensor(dtype, shape, body[begin:end])


def _refuse_overlaps(tensors: dict[str, RawTensor], path: Path) -> None:
    end = 0
    addresses = ((tensor.data.ctypes.data, tensor.data.size) for tensor in tensors.values())
    for start, size in sorted(addresses):
        if start < end:
            raise ModelError(f"{path} has tensors that overlap: fetch it again")
        end = start + size


def _canonical(
    raw: dict[str, RawTensor], config: ModelConfig, folder: Path
) -> dict[str, RawTensor]:
    """Rename, leave out what is derived, and add the 1 that Gemma's norm weights lack."""
    tensors = {}
    for name, tensor in raw.items():
        if _DERIVED.fullmatch(name) or (config.tie_embeddings and name == "lm_head.weight"):
            continue
        canonical = _canonical_name(name, config, folder)
        is_offset_norm = config.architecture == "gemma3" and canonical.endswith("norm.weight")
        tensors[canonical] = _plus_one(tensor) if is_offset_norm else tensor
    return tensors


def _canonical_name(name: str, config: ModelConfig, folder: Path) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    names = _GEMMA3_NAMES if config.architecture == "gemma3" else _LAYER_NAMES
    match = _LAYER_TENSOR.fullmatch(name)
    if match is None or match[2] not in names:
        raise ModelError(
            f"{folder} has a tensor {name[:80]!r} that {config.architecture} does not have: "
            "take a plain text model, without adapters"
        )
    return f"layers.{match[1]}.{names[match[2]]}.{match[3]}"


def _plus_one(tensor: RawTensor) -> RawTensor:
    with np.errstate(all="ignore"):  # damaged weights may be infinite
        values = dequantize(tensor) + np.float32(1)
    return RawTensor("F32", tensor.shape, values.reshape(-1).view(np.uint8))
