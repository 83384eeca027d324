"""The catalogue models' tokenizers, ours and transformers'. For `real_model` tests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from tiny_vocab import CONTROL, USER_DEFINED
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from picert import hub
from picert.models.tokenizer import Tokenizer, load_tokenizer
from picert.models.weights import TokenizerMetadata, load_checkpoint

REAL_MODELS = (
    "smollm2-135m-instruct",
    "qwen2.5-coder-0.5b-instruct",
    "qwen2.5-coder-1.5b-instruct",
)


@cache
def real_metadata(name: str) -> Mapping[str, Any]:
    """The tokenizer metadata of a catalogue model."""
    source = load_checkpoint(hub.find(name)).tokenizer_source
    assert isinstance(source, TokenizerMetadata)
    return source.values


@cache
def real_tokenizer(name: str) -> Tokenizer:
    """Our tokenizer of a catalogue model."""
    return load_tokenizer(TokenizerMetadata(real_metadata(name)))


@cache
def transformers_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Transformers' class, or the published tokenizer.json's parts, over the file's vocabulary."""
    metadata = real_metadata(name)
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    kinds = metadata["tokenizer.ggml.token_type"]
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if name.startswith("qwen"):
        oracle = Qwen2Tokenizer(vocab=vocab, merges=pairs, eos_token="<|im_end|>")
    else:
        backend = Backend(BPE(vocab=vocab, merges=pairs))
        digits = pre_tokenizers.Digits(individual_digits=True)
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
        oracle = PreTrainedTokenizerFast(tokenizer_object=backend)
    for kind in (CONTROL, USER_DEFINED):
        is_special = kind == CONTROL
        texts = [token for token, k in zip(tokens, kinds, strict=True) if k == kind]
        added = [AddedToken(text, special=is_special, normalized=False) for text in texts]
        oracle.add_tokens(added, is_special)
    oracle.chat_template = metadata["tokenizer.chat_template"]
    return oracle
