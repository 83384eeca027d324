"""A Vocabulary read from a Hugging Face folder: tokenizer.json, its config, the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from picert.errors import ModelError
from picert.models.vocabulary import SpacePrefix, Vocabulary, end_token_ids

_MAX_BYTES = 256 << 20  # the largest tokenizer.json in use has some 35 MB


def read_json_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a model folder.

    Raises ModelError if a file is missing or malformed, or of a kind that is not supported.
    """
    spec = _read_json(folder / "tokenizer.json")
    config = _read_json(folder / "tokenizer_config.json", optional=True)
    generation = _read_json(folder / "generation_config.json", optional=True)
    try:
        return _vocabulary(folder, spec, config, generation)
    except ModelError:
        raise
    except Exception as error:  # the backend raises bare Exceptions for what it cannot read
        raise ModelError(f"{folder / 'tokenizer.json'} cannot be used: {error}") from None


def _vocabulary(
    folder: Path,
    spec: dict[str, Any],
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> Vocabulary:
    strips_blank = _strips_blank(spec)
    space_prefix = _take_space_prefix(spec)
    backend = Backend.from_str(json.dumps(spec))
    ids = backend.get_vocab(with_added_tokens=True)
    size = max(ids.values(), default=-1) + 1
    if size > 4 * len(ids) + 1024:
        raise ModelError(f"{folder / 'tokenizer.json'}: {len(ids)} tokens with ids up to {size}")
    tokens = [""] * size
    for token, token_id in ids.items():
        tokens[token_id] = token
    added = spec.get("added_tokens") or []
    special = {token["content"]: ids[token["content"]] for token in added if token["special"]}
    named = {name: ids.get(_token_text(config.get(f"{name}_token")) or "") for name in _NAMES}
    bos = named["bos"]
    starts_with = backend.encode("").ids[:1]
    backend.encode_special_tokens = True  # from here on, special tokens inside text are text
    return Vocabulary(
        backend=backend,
        tokens=tuple(tokens),
        special=special,
        literal_ids=frozenset(ids[token["content"]] for token in added),
        spelling="byte_level" if _is_byte_level(spec) else "sentencepiece",
        space_prefix=space_prefix,
        strips_blank=strips_blank,
        bos_token_id=bos,
        adds_bos=bos is not None and bool(config.get("add_bos_token", starts_with == [bos])),
        eos_token_ids=end_token_ids(special, _declared_ends(generation, named["eos"], size)),
        unk_token_id=named["unk"],
        pad_token_id=named["pad"],
        chat_template=_chat_template(folder, config),
    )


_NAMES = ("bos", "eos", "unk", "pad")


def _take_space_prefix(spec: dict[str, Any]) -> SpacePrefix:
    """Take a prefix of the first word only out of the spec: where text starts is ours to know."""
    cutter = spec.get("pre_tokenizer") or {}
    if cutter.get("type") == "Metaspace" and cutter.get("prepend_scheme") == "first":
        cutter["prepend_scheme"] = "never"
        return "first"
    return "none"


def _strips_blank(spec: Mapping[str, Any]) -> bool:
    """Whether decoding takes a blank from the front of the text."""
    for part in _decoders(spec):
        if part["type"] == "Strip" and part.get("content") == " " and part.get("start"):
            return True
        if part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never":
            return True
    return False


def _decoders(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    decoder = spec.get("decoder") or {}
    return [part for part in decoder.get("decoders", [decoder]) if "type" in part]


def _is_byte_level(spec: Mapping[str, Any]) -> bool:
    """How tokens are spelled, by the decoder. Raises ModelError if that is neither of the two."""
    kinds = {part["type"] for part in _decoders(spec)}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace"}:
        return False
    raise ModelError(f"tokenizer.json has a decoder of type {sorted(kinds)}: not supported")


def _declared_ends(
    generation: Mapping[str, Any], eos: int | None, vocab_size: int
) -> tuple[int, ...]:
    """End tokens of generation_config.json (an id or a list of ids), after the tokenizer's own."""
    given = generation.get("eos_token_id")
    listed = given if isinstance(given, list) else [given]
    ids = [eos, *listed]
    return tuple(i for i in ids if isinstance(i, int) and 0 <= i < vocab_size)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, which wins over the config's `chat_template` (a text, or named ones)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read_text(path)
    given = config.get("chat_template")
    if isinstance(given, list):
        named = {str(item.get("name")): item.get("template") for item in given}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _token_text(value: Any) -> str | None:
    """The text of a token in tokenizer_config.json: a text, or an object that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{path} has over {_MAX_BYTES:,} bytes: not a tokenizer file")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
