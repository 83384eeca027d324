"""Tokenizer: text to token ids and back, for one model.

Plain text never becomes a special token: special tokens come only from the chat template, the
begin-of-sequence rule and the model itself. A Tokenizer is immutable and may be shared by threads.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from picert.errors import InvalidRequest
from picert.models.chat_template import ChatTemplate, Message, Tool, default_template
from picert.models.gguf_tokenizer import read_gguf_vocabulary
from picert.models.tokenizer_json import read_json_vocabulary
from picert.models.vocabulary import Vocabulary
from picert.models.weights import TokenizerFiles, TokenizerSource


def load_tokenizer(source: TokenizerSource, chat_template: str | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint; `chat_template` (Jinja) replaces the model's own.

    Raises ModelError if it is missing, damaged or of a kind that is not supported.
    """
    if isinstance(source, TokenizerFiles):
        vocabulary = read_json_vocabulary(source.folder)
    else:
        vocabulary = read_gguf_vocabulary(source.values)
    template = chat_template or vocabulary.chat_template or default_template(vocabulary.special)
    return Tokenizer(vocabulary, template)


class Tokenizer:
    """One model's tokenizer; without a chat template everything but `encode_chat` works."""

    def __init__(self, vocabulary: Vocabulary, chat_template: str | None) -> None:
        self._vocabulary = vocabulary
        self.vocab_size = len(vocabulary.tokens)
        self.bos_token_id = vocabulary.bos_token_id
        self.eos_token_ids = vocabulary.eos_token_ids
        self.special_ids = vocabulary.special_ids
        names = {
            "bos_token": vocabulary.bos_token_id,
            "eos_token": vocabulary.eos_token_ids[0] if vocabulary.eos_token_ids else None,
            "unk_token": vocabulary.unk_token_id,
            "pad_token": vocabulary.pad_token_id,
        }
        variables = {name: vocabulary.tokens[i] for name, i in names.items() if i is not None}
        self.chat_template = ChatTemplate(chat_template, variables, vocabulary.special)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: special markers inside stay text, nothing is added."""
        return self._encode(text, is_start=True)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw completion prompt: `encode`, after a bos if the model wants one."""
        bos = self.bos_token_id
        prefix = [bos] if self._vocabulary.adds_bos and bos is not None else []
        return prefix + self.encode(text)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        prefill: str = "",
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """Ids of a conversation as the model's chat template writes it.

        `prefill` begins the assistant's turn. Special tokens come from the template alone: a marker
        in a message, in `prefill` or in `tools` stays text. Raises InvalidRequest if the template
        refuses the messages, ModelError if there is no template or it is broken.
        """
        parts = self.chat_template.parts(
            messages,
            add_generation_prompt=add_generation_prompt,
            prefill=prefill,
            tools=tools,
        )
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode(part, is_start=not ids, after=ids[-1] if ids else None)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for: often a word, sometimes a part of one character."""
        return self._vocabulary.token_bytes(token_id)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids; what is not UTF-8 becomes U+FFFD. Raises InvalidRequest for a bad id."""
        decoder = self.decoder(skip_special_tokens)
        return "".join([decoder.push(token_id) for token_id in token_ids]) + decoder.flush()

    def decoder(self, skip_special_tokens: bool = True) -> TextDecoder:
        """A decoder that takes one id at a time."""
        return TextDecoder(self._vocabulary, skip_special_tokens)

    def _encode(self, text: str, *, is_start: bool, after: int | None = None) -> list[int]:
        """Ids of text at the start of the prompt, or after the special token `after`."""
        prefix = self._vocabulary.space_prefix
        is_sentence = is_start or after == self.bos_token_id or after in self.eos_token_ids
        wants_blank = (prefix == "sentence" and is_sentence) or (
            prefix == "first" and is_start and not text.startswith((" ", "▁"))
        )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidRequest(
                "the text holds half a surrogate pair: send valid Unicode"
            ) from None
        if text and wants_blank:
            text = " " + text
        ids: list[int] = self._vocabulary.backend.encode(text, add_special_tokens=False).ids
        return ids


class TextDecoder:
    """Ids to text, one at a time. What all calls return, joined, equals `decode` of all ids."""

    def __init__(self, vocabulary: Vocabulary, skip_special_tokens: bool) -> None:
        self._vocabulary = vocabulary
        self._skips = vocabulary.special_ids if skip_special_tokens else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strips_blank = vocabulary.strips_blank

    def push(self, token_id: int) -> str:
        """The text that is complete with this id; an unfinished character is kept for later."""
        if not 0 <= token_id < len(self._vocabulary.tokens):
            raise InvalidRequest(
                f"token id {token_id} is outside the vocabulary of {len(self._vocabulary.tokens)}"
            )
        if token_id in self._skips:
            return ""
        return self._emit(self._utf8.decode(self._vocabulary.token_bytes(token_id)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never became complete."""
        return self._emit(self._utf8.decode(b"", final=True))

    def _emit(self, text: str) -> str:
        if self._strips_blank and text:
            self._strips_blank = False
            return text.removeprefix(" ")
        return text
