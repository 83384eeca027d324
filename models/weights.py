"""Checkpoint: a model's config and raw weights under canonical names, whatever file they came from.

The only door to a model on disk is `load_checkpoint`. Names and values are canonical (rope pairs
(d, d + D/2), norm weights that multiply as they are), so no decoder knows a file format. Nothing is
dequantised here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from picert.errors import ModelError
from picert.models.config import ModelConfig
from picert.models.gguf import read_gguf
from picert.models.gguf_header import MetadataValue
from picert.models.raw_tensor import RawTensor, dequantize
from picert.models.safetensors import read_folder

__all__ = [
    "Checkpoint",
    "MetadataValue",
    "RawTensor",
    "TokenizerFiles",
    "TokenizerMetadata",
    "TokenizerSource",
    "dequantize",
    "expected_shapes",
    "load_checkpoint",
]


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The tokenizer of a folder: `tokenizer.json`, `tokenizer_config.json` and what they need."""

    folder: Path


@dataclass(frozen=True, slots=True)
class TokenizerMetadata:
    """The tokenizer inside a GGUF file: its metadata under `tokenizer.` and `general.`, keys as is.

    Arrays are tuples; an array of 150,000 strings is one tuple of str.
    """

    values: Mapping[str, MetadataValue]


TokenizerSource = TokenizerFiles | TokenizerMetadata


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model on disk, checked: exactly the tensors that its config asks for, each in shape."""

    name: str  # the file's stem or the folder's name
    config: ModelConfig
    tensors: Mapping[str, RawTensor]  # canonical name -> bytes, mapped
    tokenizer_source: TokenizerSource
    num_parameters: int
    fingerprint: str  # SHA-256 of header and size: equal files agree


def load_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a folder with safetensors; the weights stay on disk until they are read.

    Raises ModelError, in one line, for files that are missing, damaged, incomplete or of a kind
    that is not supported.
    """
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".safetensors":
        raise ModelError(f"{path} is one file of a model folder: name the folder {path.parent}")
    if not path.is_file():  # a pipe or a device would have us wait for ever
        raise ModelError(f"{path} is not there, wanted a GGUF file or a model folder")
    return _from_gguf(path)


def expected_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Canonical name and shape of every tensor of a network, in the order of use."""
    vocab, hidden = config.vocab_size, config.hidden_size
    yield "embed.weight", (vocab, hidden)
    of_layer = _layer_shapes(config)
    for layer in range(config.num_layers):
        for name, shape in of_layer.items():
            yield f"layers.{layer}.{name}", shape
    yield "final_norm.weight", (hidden,)
    if not config.tie_embeddings:
        yield "lm_head.weight", (vocab, hidden)


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    q_size, kv_size = config.num_heads * head, config.num_kv_heads * head
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "q.weight": (q_size, hidden),
        "k.weight": (kv_size, hidden),
        "v.weight": (kv_size, hidden),
        "o.weight": (hidden, q_size),
        "ffn_norm.weight": (hidden,),
        "gate.weight": (inner, hidden),
        "up.weight": (inner, hidden),
        "down.weight": (hidden, inner),
    }
    if config.qkv_bias:
        shapes |= {"q.bias": (q_size,), "k.bias": (kv_size,), "v.bias": (kv_size,)}
    if config.qk_norm:
        shapes |= {"q_norm.weight": (head,), "k_norm.weight": (head,)}
    if config.post_norms:
        shapes |= {"post_attn_norm.weight": (hidden,), "post_ffn_norm.weight": (hidden,)}
    return shapes


def _from_gguf(path: Path) -> Checkpoint:
    model = read_gguf(path)
    about_text = ("tokenizer.", "general.")
    source = {k: v for k, v in model.metadata.items() if k.startswith(about_text)}
    return Checkpoint(
        name=path.stem,
        config=model.config,
        tensors=_checked(path.name, model.config, model.tensors),
        tokenizer_source=TokenizerMetadata(source),
        num_parameters=_num_parameters(model.tensors),
        fingerprint=model.fingerprint,
    )


def _from_folder(path: Path) -> Checkpoint:
    model = read_folder(path)
    return Checkpoint(
        name=path.resolve().name,
        config=model.config,
        tensors=_checked(path.name, model.config, model.tensors),
        tokenizer_source=TokenizerFiles(path),
        num_parameters=_num_parameters(model.tensors),
        fingerprint=model.fingerprint,
    )


def _num_parameters(tensors: Mapping[str, RawTensor]) -> int:
    return sum(tensor.num_values for tensor in tensors.values())


def _checked(
    where: str, config: ModelConfig, tensors: Mapping[str, RawTensor]
) -> dict[str, RawTensor]:
    """`tensors` in the order of use. Raises ModelError if they are not exactly what is expected."""
    result = {}
    for name, shape in expected_shapes(config):
        tensor = tensors.get(name)
        if tensor is None:
            raise ModelError(f"{where} lacks the tensor {name}: fetch or convert the model again")
        if tensor.shape != shape:
            raise ModelError(
                f"{where}: {name} has shape {tensor.shape}, its config asks for {shape}: "
                "fetch or convert the model again"
            )
        result[name] = tensor
    if unexpected := tensors.keys() - result.keys():
        raise ModelError(
            f"{where} has the tensor {min(unexpected)}, which its config ({config.architecture}) "
            "has no use for: fetch or convert the model again"
        )
    return result
