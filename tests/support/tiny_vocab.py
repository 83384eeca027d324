"""Tokenizer metadata as GGUF holds it: byte-level BPE, and SentencePiece trained on the fly."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import sentencepiece
import tiny_tokenizer

from picert.models.tokenizer import Tokenizer, load_tokenizer
from picert.models.weights import TokenizerMetadata

CONTROL, USER_DEFINED = 3, 4
USER_DEFINED_PIECES = ("<tag>", *("▁" * n for n in range(2, 13)))


def tiny_metadata(pre: str = "qwen2") -> dict[str, Any]:
    """The tiny tokenizer, with pre-tokenizer `pre`."""
    tokens, merges = tiny_tokenizer.tokens_and_merges()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tuple(tokens),
        "tokenizer.ggml.token_type": tuple(3 if i < 3 else 1 for i in range(len(tokens))),
        "tokenizer.ggml.merges": tuple(merges),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
    }


@cache
def tiny_gguf_tokenizer(pre: str = "qwen2") -> Tokenizer:
    """Our tokenizer over `tiny_metadata`."""
    return load_tokenizer(TokenizerMetadata(tiny_metadata(pre)))


@cache
def trained(add_dummy_prefix: bool) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece itself, trained on shuffled words."""
    rng = random.Random(3)
    words = " ".join(tiny_tokenizer.CORPUS).split()
    lines = [" ".join(rng.choices(words, k=12)) for _ in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=add_dummy_prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=list(USER_DEFINED_PIECES),
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@cache
def spm_metadata(add_dummy_prefix: bool) -> Mapping[str, Any]:
    """What a converter writes for the trained model."""
    model = trained(add_dummy_prefix)
    ids = range(model.get_piece_size())

    def kind(i: int) -> int:
        if model.is_unknown(i):
            return 2
        if model.is_control(i):
            return CONTROL
        if model.is_byte(i):
            return 6
        return USER_DEFINED if model.id_to_piece(i) in USER_DEFINED_PIECES else 1

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tuple(model.id_to_piece(i) for i in ids),
        "tokenizer.ggml.scores": tuple(model.get_score(i) for i in ids),
        "tokenizer.ggml.token_type": tuple(kind(i) for i in ids),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": add_dummy_prefix,
    }


def plain_merges(tokens: tuple[str, ...], scores: tuple[float, ...]) -> list[tuple[str, str]]:
    """Merges that the scores imply, for transformers' classes."""
    from_id = {t: i for i, t in enumerate(tokens) if not t.startswith("<")}
    splits = [(t[:n], t[n:]) for t in from_id for n in range(1, len(t))]
    known = [(a, b) for a, b in splits if a in from_id and b in from_id]
    return sorted(known, key=lambda pair: -scores[from_id[pair[0] + pair[1]]])
