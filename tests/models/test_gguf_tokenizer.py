"""Vocabularies from GGUF metadata: word patterns, SentencePiece, what malformed files give."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hard_strings import hard_strings
from hypothesis import given
from hypothesis import strategies as st
from tiny_vocab import plain_merges, spm_metadata, tiny_gguf_tokenizer, tiny_metadata, trained
from tokenizers import Regex, pre_tokenizers
from transformers import GemmaTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from picert.errors import ModelError
from picert.messages import ChatMessage
from picert.models.gguf_tokenizer import read_gguf_vocabulary
from picert.models.tokenizer import load_tokenizer
from picert.models.weights import TokenizerMetadata

STRINGS = hard_strings()


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "llama-v3"])
def test_llama3_words_are_cut_as_transformers_cuts_them(pre: str) -> None:
    pattern = TikTokenConverter(vocab_file=None).pattern
    for text in STRINGS:
        assert cuts(pre, text) == split_by(pattern, text), repr(text)


def test_tekken_words_are_cut_as_transformers_cuts_them() -> None:
    from_transformers = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    pattern = from_transformers.GGUF_PRE_TOKENIZER_SPLITS["tekken"]
    for text in STRINGS:
        assert cuts("tekken", text) == split_by(pattern, text), repr(text)


def cuts(pre: str, text: str) -> list[str]:
    backend = read_gguf_vocabulary(tiny_metadata(pre)).backend
    return [text[a:b] for _, (a, b) in backend.pre_tokenizer.pre_tokenize_str(text)]


def split_by(pattern: str, text: str) -> list[str]:
    parts = pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
    return [text[a:b] for _, (a, b) in parts]


@pytest.mark.parametrize("pre", ["llama-bpe", "tekken"])
def test_llama3_and_tekken_want_a_bos_unless_the_file_says_no(pre: str) -> None:
    said_no = {**tiny_metadata(pre), "tokenizer.ggml.add_bos_token": False}
    assert tiny_gguf_tokenizer(pre).encode_prompt("a")[0] == 0
    tokenizer = load_tokenizer(TokenizerMetadata(said_no))
    assert tokenizer.encode_prompt("a") == tokenizer.encode("a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.pre": "martian"}, "pre-tokenizer 'martian' is not known"),
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.model": 7}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.tokens": ()}, "empty"),
        ({"tokenizer.ggml.tokens": (1, 2)}, "array of str"),
        ({"tokenizer.ggml.token_type": (1,)}, "token types"),
        ({"tokenizer.ggml.merges": ("ab",)}, "two tokens"),
        ({"tokenizer.ggml.merges": ("zz qq",)}, "cannot be built"),
        ({"tokenizer.ggml.eos_token_id": 384}, "eos_token_id is 384"),
        ({"tokenizer.ggml.bos_token_id": "a"}, "bos_token_id"),
        ({"tokenizer.ggml.add_bos_token": 3}, "true or false"),
        ({"tokenizer.ggml.model": "llama"}, "scores"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": (0.0,)}, "1 scores"),
    ],
)
def test_malformed_metadata_is_a_model_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_tokenizer(TokenizerMetadata({**tiny_metadata(), **change}))


@pytest.mark.parametrize(
    "key", ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"]
)
def test_missing_metadata_is_a_model_error(key: str) -> None:
    metadata = {k: v for k, v in tiny_metadata().items() if k != key}
    with pytest.raises(ModelError, match="missing"):
        load_tokenizer(TokenizerMetadata(metadata))


VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-5, 400), st.floats(), st.text(max_size=5)),
    *(st.tuples(), st.lists(st.text(max_size=3), max_size=5).map(tuple)),
    st.lists(st.integers(-5, 400), max_size=5).map(tuple),
)


@given(st.dictionaries(st.sampled_from(sorted(tiny_metadata())), VALUES, min_size=1))
def test_mutated_metadata_is_a_model_error_or_a_tokenizer_that_works(
    changes: dict[str, Any],
) -> None:
    ids, vocab_size = [], 1
    with suppress(ModelError):
        tokenizer = load_tokenizer(TokenizerMetadata({**tiny_metadata(), **changes}))
        ids, vocab_size = tokenizer.encode("the model"), tokenizer.vocab_size
    assert all(0 <= i < vocab_size for i in ids)


def test_special_token_that_reads_like_a_word_is_not_reached_by_text() -> None:
    metadata = tiny_metadata("llama-bpe")
    tokens = ("Hello", *metadata["tokenizer.ggml.tokens"][1:])
    tokenizer = load_tokenizer(TokenizerMetadata({**metadata, "tokenizer.ggml.tokens": tokens}))
    assert 0 not in tokenizer.encode("Hello")
    assert tokenizer.decode([0], skip_special_tokens=False) == "Hello"


@pytest.mark.parametrize("add_dummy_prefix", [True, False])
def test_sentencepiece_ids_equal_sentencepiece_itself(add_dummy_prefix: bool) -> None:
    oracle = trained(add_dummy_prefix)
    ours = load_tokenizer(TokenizerMetadata(spm_metadata(add_dummy_prefix)))
    for text in STRINGS:
        if "\x00" not in text:  # SentencePiece ends there
            assert ours.encode(text) == oracle.encode(text), repr(text)


@pytest.mark.parametrize("add_dummy_prefix", [True, False])
def test_sentencepiece_text_comes_back(add_dummy_prefix: bool) -> None:
    ours = load_tokenizer(TokenizerMetadata(spm_metadata(add_dummy_prefix)))
    for text in STRINGS:
        if "▁" not in text:  # is how a blank is spelled
            assert ours.decode(ours.encode(text)) == text


def test_gemma_ids_equal_transformers_and_its_chat_starts_with_bos() -> None:
    metadata = {**spm_metadata(False), "general.architecture": "gemma3"}
    tokens = metadata["tokenizer.ggml.tokens"]
    by_position = tuple(-float(i) for i in range(len(tokens)))
    merges = plain_merges(tokens, by_position)
    vocab = {token: i for i, token in enumerate(tokens)}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "mask_token": "<unk>"}
    oracle = GemmaTokenizer(vocab=vocab, merges=merges, **names)
    oracle.add_tokens("<tag>")
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}</s>\n{% endfor %}"
    ours = load_tokenizer(TokenizerMetadata(metadata), chat_template=template)
    for text in STRINGS:
        wanted = oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == wanted, repr(text)
    rendered = "<s>the model</s>\n and</s>\n"
    chat = [ChatMessage("user", "the model"), ChatMessage("user", " and")]
    assert ours.encode_chat(chat) == oracle.encode(rendered, add_special_tokens=False)
    assert ours.encode_prompt("the")[0] == 1


def test_gemma_runs_of_blanks_stored_as_blanks_are_found() -> None:
    metadata = {**spm_metadata(False), "general.architecture": "gemma3"}
    tokens = tuple(
        t.replace("▁", " ") if set(t) == {"▁"} else t for t in metadata["tokenizer.ggml.tokens"]
    )
    respelled = load_tokenizer(TokenizerMetadata({**metadata, "tokenizer.ggml.tokens": tokens}))
    original = load_tokenizer(TokenizerMetadata(metadata))
    assert respelled.encode("a  b   c") == original.encode("a  b   c")
    assert respelled.decode(respelled.encode("a  b   c")) == "a  b   c"


def test_text_after_a_sentence_boundary_gets_its_blank_and_after_other_markers_not() -> None:
    ours = load_tokenizer(
        TokenizerMetadata(spm_metadata(True)),
        chat_template="{{ bos_token }}the{{ unk_token }}the{{ eos_token }}the",
    )
    with_blank, without = ours.encode("the"), trained(False).encode("the")
    ids = ours.encode_chat([ChatMessage("user", "x")])
    unblanked = [trained(True).piece_to_id(trained(False).id_to_piece(i)) for i in without]
    assert ids == [1, *with_blank, 0, *unblanked, 2, *with_blank]
