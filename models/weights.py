"""Checkpoint: a model's config and raw weights under canonical names, whatever file they came from.

The only door to a model on disk is `load_checkpoint`. Names and values are canonical (rope pairs (d, d + D/2), norm
weights that multiply as they are), so no decoder knows a file format. Nothing is dequantised here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from picert.models.config import ModelConfig
from picert.models.raw_tensor import RawTensor

__all__ = ["Checkpoint", "RawTensor", "TokenizerFiles", "TokenizerMetadata", "load_checkpoint"]

MetadataValue = str | int | float | bool | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The tokenizer of a Hugging Face folder: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` …"""

    folder: Path


@dataclass(frozen=True, slots=True)
class TokenizerMetadata:
    """The tokenizer inside a GGUF file: all its metadata under `tokenizer.` and `general.`, keys as in the file.

    Arrays are tuples; an array of 150,000 strings is one tuple of str.
    """

    values: Mapping[str, MetadataValue]


TokenizerSource = TokenizerFiles | TokenizerMetadata


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model on disk, checked: exactly the tensors its config asks for, each of the right shape."""

    name: str  # the file's stem or the folder's name
    config: ModelConfig
    tensors: Mapping[str, RawTensor]  # canonical name -> bytes, mapped
    tokenizer_source: TokenizerSource
    num_parameters: int
    fingerprint: str  # SHA-256 of header and size: equal files agree


def load_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a folder with safetensors; the weights stay on disk until they are read.

    Raises ModelError, in one line, for files that are missing, damaged, incomplete or of a kind not supported.
    """
    raise NotImplementedError
