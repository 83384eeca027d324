"""GGUF files: what their metadata and tensors mean. The bytes are read by `gguf_header`.

Tensors come out under canonical names with canonical values: rows of q and k of Llama files, which
hold rope pairs as neighbours, are put back to (d, d + D/2), as whole quantised rows.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from picert.errors import ModelError
from picert.models.config import ModelConfig
from picert.models.gguf_config import ROPE_FREQS, config_from_metadata
from picert.models.gguf_header import GgufHeader, MetadataValue, TensorInfo, read_header
from picert.models.raw_tensor import RawTensor, dequantize

_OUTER_NAMES = {"token_embd": "embed", "output_norm": "final_norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "attn_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "post_attention_norm": "post_attn_norm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
    "post_ffw_norm": "post_ffn_norm",
}
__all__ = ["GgufModel", "dequantize", "read_gguf"]

MAX_ROPE_FACTORS = 4096
_LAYER_TENSOR = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A GGUF file, mapped and understood. `tensors` may hold more or less than `config` wants."""

    config: ModelConfig
    tensors: dict[str, RawTensor]
    metadata: dict[str, MetadataValue]
    fingerprint: str


def read_gguf(path: Path) -> GgufModel:
    """Map a GGUF file; its tensors stay on disk until they are read.

    Raises ModelError for a file that is damaged or of an architecture or type not supported.
    """
    data = _mapped(path)
    header = read_header(data, path.name)
    file_bytes = np.frombuffer(data, dtype=np.uint8)
    raw = {info.name: _raw_tensor(info, file_bytes) for info in header.tensors}
    rope_freqs = raw.pop(ROPE_FREQS, None)
    factors = _rope_factors(path.name, rope_freqs)
    shapes = {name: tensor.shape for name, tensor in raw.items()}
    config = config_from_metadata(path.name, header.metadata, shapes, factors)
    tensors = {}
    for name, tensor in raw.items():
        canonical = _canonical_name(name, path.name)
        tensors[canonical] = _canonical_rows(canonical, tensor, config)
    return GgufModel(config, tensors, header.metadata, _fingerprint(data, header))


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ModelError(f"{path.name} is empty, wanted a GGUF file: fetch it again") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None


def _raw_tensor(info: TensorInfo, file_bytes: NDArray[np.uint8]) -> RawTensor:
    view = file_bytes[info.start : info.start + info.num_bytes]
    return RawTensor(info.dtype, info.shape, view)


def _rope_factors(where: str, tensor: RawTensor | None) -> tuple[float, ...]:
    if tensor is None:
        return ()
    if tensor.num_values > MAX_ROPE_FACTORS:
        raise ModelError(f"{where}: {ROPE_FREQS} has {tensor.num_values} values: fetch it again")
    return tuple(dequantize(tensor).ravel().tolist())


def _fingerprint(data: mmap.mmap, header: GgufHeader) -> str:
    digest = hashlib.sha256(data[: header.num_bytes])
    digest.update(len(data).to_bytes(8, "little"))
    return digest.hexdigest()


def _canonical_name(name: str, where: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER_NAMES and kind == "weight":
        return f"{_OUTER_NAMES[stem]}.weight"
    match = _LAYER_TENSOR.fullmatch(name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise ModelError(
            f"{where} has a tensor {name[:80]!r} that no supported architecture has: "
            "take a plain text model, without adapters or experts"
        )
    return f"layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"


def _canonical_rows(name: str, tensor: RawTensor, config: ModelConfig) -> RawTensor:
    """Rows of q and k in Llama files from rope neighbours to pairs (d, d + D/2)."""
    if config.architecture not in ("llama", "mistral"):
        return tensor
    num_heads = {"q": config.num_heads, "k": config.num_kv_heads}.get(name.split(".")[-2])
    if num_heads is None or tensor.shape[0] != num_heads * config.head_dim:
        return tensor  # a wrong shape is refused later, by name
    pairs = tensor.data.reshape(num_heads, config.head_dim // 2, 2, -1)
    return RawTensor(tensor.dtype, tensor.shape, pairs.swapaxes(1, 2).reshape(-1))
