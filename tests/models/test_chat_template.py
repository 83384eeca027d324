"""Chat templates: transformers' text and ids, whose marker is whose, defaults, refusals."""

from __future__ import annotations

import pytest
from hard_strings import conversations
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizers import REAL_MODELS, real_tokenizer, transformers_tokenizer
from tiny_vocab import tiny_gguf_tokenizer, tiny_metadata

from picert.errors import InvalidRequest, ModelError
from picert.messages import ChatMessage
from picert.models.chat_template import CHATML, ChatTemplate
from picert.models.tokenizer import Tokenizer, load_tokenizer
from picert.models.weights import TokenizerMetadata

CHATML_IDS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def chat(turns: list[dict[str, str]]) -> list[ChatMessage]:
    return [ChatMessage(turn["role"], turn["content"]) for turn in turns]


def with_template(source: str) -> Tokenizer:
    return load_tokenizer(TokenizerMetadata(tiny_metadata()), chat_template=source)


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL_MODELS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_text_and_ids_of_ten_conversations_equal_transformers(
    name: str, add_generation_prompt: bool
) -> None:
    ours, oracle = real_tokenizer(name), transformers_tokenizer(name)
    assert len(conversations()) == 10
    for turns in conversations():
        text = ours.chat_template.render(chat(turns), add_generation_prompt=add_generation_prompt)
        ids = ours.encode_chat(chat(turns), add_generation_prompt=add_generation_prompt)
        wanted = oracle.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert text == wanted
        assert ids == oracle.encode(wanted, add_special_tokens=False)


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL_MODELS)
def test_prefill_continues_the_assistants_turn(name: str) -> None:
    ours, oracle = real_tokenizer(name), transformers_tokenizer(name)
    for turns in conversations():
        wanted = oracle.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        for prefill in ("1.", " 1.", "\n\nSure", "Here"):
            ids = ours.encode_chat(chat(turns), prefill=prefill)
            assert ids == oracle.encode(wanted + prefill, add_special_tokens=False)


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL_MODELS[:2])
def test_every_special_marker_in_a_message_stays_text(name: str) -> None:
    ours = real_tokenizer(name)
    plain = special_of(ours, "harmless", "harmless")
    markers = [ours.decode([i], skip_special_tokens=False) for i in sorted(ours.special_ids)][:300]
    for marker in markers:
        content = f"{marker} x{marker}{marker}\n{marker}"
        assert special_of(ours, content, marker) == plain
    ids = ours.encode_chat([ChatMessage("user", "".join(markers))])
    assert "".join(markers) in ours.decode(ids, skip_special_tokens=False)


def special_of(tokenizer: Tokenizer, content: str, prefill: str) -> list[int]:
    messages = [ChatMessage("user", content), ChatMessage("assistant", content)]
    ids = tokenizer.encode_chat(messages, prefill=prefill)
    return [i for i in ids if i in tokenizer.special_ids]


FRAGMENTS = ("<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<", "|", "\U000f0000", "\n", "a", " ")


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8), st.lists(st.sampled_from(FRAGMENTS)))
def test_no_join_of_fragments_makes_a_marker_or_loses_a_character(
    first: list[str], second: list[str]
) -> None:
    source = "<|im_start|>{{ messages[0].content }}{{ messages[1].content }}<|im_end|>"
    template = ChatTemplate(source, {}, CHATML_IDS)
    contents = "".join(first), "".join(second)
    parts = template.parts([ChatMessage("user", content) for content in contents])
    assert (parts[0], parts[-1]) == (1, 2)
    assert [part for part in parts[1:-1] if isinstance(part, int)] == []
    assert "".join(str(part) for part in parts[1:-1]) == "".join(contents)


@pytest.mark.parametrize("special", [{"ab": 1, "bc": 2}, {"a": 1}, {"a": 1, "aa": 2, "b": 3}])
@given(text=st.text("abc \U000f0000\U000f0001", max_size=12))
def test_overlapping_and_single_character_markers_stay_text(
    special: dict[str, int], text: str
) -> None:
    template = ChatTemplate("{{ messages[0].content }}", {}, special)
    parts = template.parts([ChatMessage("user", text)], prefill=text)
    assert parts == ([text + text] if text else [])


def test_template_that_trims_and_splits_sees_the_users_text() -> None:
    source = "{{ messages[0].content.split('</think>')[-1] | trim | length }}"
    template = ChatTemplate(source, {}, CHATML_IDS)
    message = ChatMessage("user", "<think>x</think> <|im_end|> ")
    assert template.parts([message]) == ["10"]


def test_model_without_template_but_with_chatml_markers_speaks_chatml() -> None:
    tokenizer = tiny_gguf_tokenizer()
    assert tokenizer.chat_template.source == CHATML
    ids = tokenizer.encode_chat([ChatMessage("user", "hi")])
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == expected


def test_model_without_template_and_markers_is_a_model_error() -> None:
    metadata = tiny_metadata()
    tokens = ("<a>", "<b>", "<c>", *metadata["tokenizer.ggml.tokens"][3:])
    tokenizer = load_tokenizer(TokenizerMetadata({**metadata, "tokenizer.ggml.tokens": tokens}))
    with pytest.raises(ModelError, match="no chat template"):
        tokenizer.encode_chat([ChatMessage("user", "hi")])
    assert tokenizer.encode("hi")


def test_no_messages_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="messages is empty"):
        tiny_gguf_tokenizer().encode_chat([])


def test_refusal_of_the_template_is_an_invalid_request_in_its_words() -> None:
    source = "{{ raise_exception('roles must alternate, got ' ~ messages[0].role) }}"
    with pytest.raises(InvalidRequest, match="roles must alternate, got user") as caught:
        with_template(source).encode_chat([ChatMessage("user", "hi")])
    assert not isinstance(caught.value, ModelError)
    assert caught.value.param == "messages"


def test_template_gets_its_bos_and_eos_texts() -> None:
    ids = with_template("{{ bos_token }}x{{ eos_token }}").encode_chat([ChatMessage("user", "hi")])
    assert (ids[0], ids[-1]) == (0, 2)
