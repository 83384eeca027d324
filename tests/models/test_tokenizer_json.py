"""Tokenizers of Hugging Face folders: ids as transformers gives them, what wins, damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_tokenizer
from hard_strings import hard_strings
from tiny_vocab import plain_merges, spm_metadata
from transformers import AutoTokenizer, LlamaTokenizer

from picert.errors import ModelError
from picert.messages import ChatMessage
from picert.models.tokenizer import Tokenizer, load_tokenizer
from picert.models.weights import TokenizerFiles

STRINGS = hard_strings()


@pytest.fixture
def tiny(tmp_path: Path) -> Tokenizer:
    tiny_tokenizer.write_tokenizer_files(tmp_path)
    return load_tokenizer(TokenizerFiles(tmp_path))


def test_folder_ids_equal_transformers(tiny: Tokenizer, tmp_path: Path) -> None:
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    for text in STRINGS:
        wanted = oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert tiny.encode(text) == wanted, repr(text)


def test_folder_end_tokens_come_from_tokenizer_and_generation_config(tmp_path: Path) -> None:
    tiny_tokenizer.write_tokenizer_files(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    tokenizer = load_tokenizer(TokenizerFiles(tmp_path))
    assert tokenizer.eos_token_ids == (2, 7, 0)
    assert tokenizer.bos_token_id is None


def test_chat_template_file_wins_over_the_config(tmp_path: Path) -> None:
    tiny_tokenizer.write_tokenizer_files(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert load_tokenizer(TokenizerFiles(tmp_path)).chat_template.source == "from the file"
    given_by_hand = load_tokenizer(TokenizerFiles(tmp_path), chat_template="by hand")
    assert given_by_hand.chat_template.source == "by hand"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "cannot be used"),
        ('{"decoder": {"type": "ByteLevel"}, "model": {"type": "Nonsense"}}', "cannot be used"),
    ],
)
def test_bad_tokenizer_json_is_a_model_error(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        load_tokenizer(TokenizerFiles(tmp_path))


def test_decoder_of_another_kind_is_a_model_error(tmp_path: Path) -> None:
    tiny_tokenizer.write_tokenizer_files(tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = {**json.loads(path.read_text()), "decoder": {"type": "Fuse"}}
    path.write_text(json.dumps(spec))
    with pytest.raises(ModelError, match="Fuse"):
        load_tokenizer(TokenizerFiles(tmp_path))


def test_metaspace_folder_equals_transformers_at_the_start_and_after_special_tokens(
    tmp_path: Path,
) -> None:
    metadata = spm_metadata(add_dummy_prefix=True)
    tokens = metadata["tokenizer.ggml.tokens"]
    scores = metadata["tokenizer.ggml.scores"]
    oracle = LlamaTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=plain_merges(tokens, scores)
    )
    oracle.save_pretrained(tmp_path)
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    ours = load_tokenizer(TokenizerFiles(tmp_path), chat_template=template)
    for text in STRINGS:
        wanted = oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == wanted, repr(text)
    assert ours.encode_prompt("the model") == oracle.encode("the model")
    rendered = "<s>the model</s> and</s>"
    chat = [ChatMessage("user", "the model"), ChatMessage("user", " and")]
    assert ours.encode_chat(chat) == oracle.encode(rendered, add_special_tokens=False)
