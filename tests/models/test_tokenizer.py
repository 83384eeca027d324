"""Ids of real models against transformers and a plain-Python BPE; decoding, whole and streamed."""

from __future__ import annotations

from functools import cache

import pytest
import tiny_tokenizer
from hard_strings import hard_strings
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizers import (
    REAL_MODELS,
    real_metadata,
    real_tokenizer,
    transformers_tokenizer,
)
from reference_bpe import GPT2_PATTERN, ReferenceBpe
from tiny_vocab import USER_DEFINED, tiny_gguf_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    Qwen2Tokenizer,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from picert.errors import InvalidRequest

STRINGS = hard_strings()


@cache
def reference(name: str) -> ReferenceBpe:
    metadata = real_metadata(name)
    is_qwen = name.startswith("qwen")
    patterns = [PRETOKENIZE_REGEX] if is_qwen else [r"\p{N}", GPT2_PATTERN]
    merges = metadata["tokenizer.ggml.merges"]
    return ReferenceBpe(metadata["tokenizer.ggml.tokens"], merges, patterns, nfc=is_qwen)


def without_user_defined(name: str) -> list[str]:
    metadata = real_metadata(name)
    kinds = zip(
        metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True
    )
    cut_out = [token for token, kind in kinds if kind == USER_DEFINED]
    return [text for text in STRINGS if not any(token in text for token in cut_out)]


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL_MODELS)
def test_ids_of_500_hard_strings_equal_transformers(name: str) -> None:
    ours, oracle = real_tokenizer(name), transformers_tokenizer(name)
    assert len(STRINGS) == 500
    for text in STRINGS:
        wanted = oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == wanted, repr(text)


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL_MODELS[:2])
def test_ids_of_500_hard_strings_equal_plain_python_bpe(name: str) -> None:
    ours, oracle = real_tokenizer(name), reference(name)
    strings = without_user_defined(name)
    assert len(strings) > 400
    for text in strings:
        assert ours.encode(text) == oracle.encode(text), repr(text)


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL_MODELS[:2])
def test_plain_text_never_becomes_a_special_token(name: str) -> None:
    ours = real_tokenizer(name)
    markers = [ours.decode([i], skip_special_tokens=False) for i in sorted(ours.special_ids)]
    assert "<|im_end|>" in markers
    for marker in markers:
        assert not ours.special_ids & set(ours.encode(f"a {marker}{marker}\n{marker}"))


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL_MODELS[:2])
def test_decoding_gives_the_text_back_however_it_is_cut(name: str) -> None:
    ours = real_tokenizer(name)
    for text in STRINGS:
        ids = ours.encode(text)
        decoder = ours.decoder()
        pieces = [decoder.push(i) for i in ids]
        wanted = text if name.startswith("smollm") else nfc(text)
        assert "".join(pieces) + decoder.flush() == ours.decode(ids) == wanted
        assert "�" in text or "�" not in "".join(pieces)


def nfc(text: str) -> str:
    import_free = Tokenizer(BPE())  # the normaliser of the tokenizers package, not ours
    import_free.normalizer = Qwen2Tokenizer(vocab={"a": 0}, merges=[]).backend_tokenizer.normalizer
    return str(import_free.normalizer.normalize_str(text))


@pytest.mark.real_model
def test_special_ids_and_end_tokens_of_real_models() -> None:
    smollm, qwen = real_tokenizer(REAL_MODELS[0]), real_tokenizer(REAL_MODELS[1])
    assert (smollm.vocab_size, qwen.vocab_size) == (49152, 151936)
    assert (smollm.bos_token_id, qwen.bos_token_id) == (1, 151643)
    assert smollm.eos_token_ids == (2, 0)
    assert qwen.eos_token_ids == (151645, 151643)
    assert qwen.encode_prompt("Hello world") == [9707, 1879]
    assert qwen.decode([151644, 9707, 151645]) == "Hello"
    assert qwen.decode([151644, 9707], skip_special_tokens=False) == "<|im_start|>Hello"


@given(st.lists(st.integers(0, tiny_tokenizer.VOCAB_SIZE - 1), max_size=40), st.booleans())
def test_incremental_decoding_equals_the_backends_decoding_of_the_whole(
    ids: list[int], skip: bool
) -> None:
    ours = tiny_gguf_tokenizer()
    decoder = ours.decoder(skip)
    text = "".join([decoder.push(i) for i in ids]) + decoder.flush()
    assert text == ours.decode(ids, skip)
    assert text == tiny_tokenizer.tiny_tokenizer().decode(ids, skip_special_tokens=skip)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_piece_of_a_stream_ends_inside_a_character(text: str) -> None:
    ours = tiny_gguf_tokenizer("gpt-2")
    decoder = ours.decoder()
    seen = ""
    for token_id in ours.encode(text):
        seen += decoder.push(token_id)
        assert text.startswith(seen)
    assert seen + decoder.flush() == text


def test_unfinished_character_becomes_one_replacement_at_the_end() -> None:
    ours = tiny_gguf_tokenizer()
    ids = ours.encode("é")
    assert len(ids) == 2
    decoder = ours.decoder()
    assert (decoder.push(ids[0]), decoder.flush()) == ("", "\ufffd")


@pytest.mark.parametrize("bad", [-1, tiny_tokenizer.VOCAB_SIZE, 1 << 40])
def test_id_outside_the_vocabulary_is_an_invalid_request(bad: int) -> None:
    with pytest.raises(InvalidRequest, match="outside the vocabulary"):
        tiny_gguf_tokenizer().decode([bad])


def test_lone_surrogate_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        tiny_gguf_tokenizer().encode("a\ud800b")
