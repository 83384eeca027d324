"""Grammars: what a text must be, as masks of the tokens that may follow; llguidance does the work.

Nothing a user sends may take long or much: schemas are bounded in size, and the parser gives up on
a grammar, or on a step of it, that would cost more than some 20 ms.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from picert.errors import InvalidRequest
from picert.messages import Grammar

MAX_GRAMMAR_CHARS = 64 << 10
# Between JSON's parts, as people format it. A model that has nothing to say would fill its budget
# with blanks if it could.
_BLANKS = r"\x20|\x0A[\x20\x09]{0,32}"


class Vocabulary(Protocol):
    """What a grammar needs of a tokenizer."""

    vocab_size: int
    eos_token_ids: tuple[int, ...]
    special_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for."""
        ...


class GrammarCompiler:
    """Compiles grammars for one vocabulary, which is indexed at first use. Any thread may call."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._index: LLTokenizer | None = None

    def compile(self, grammar: Grammar) -> GrammarMask:
        """The mask of a text that has not begun. Raises InvalidRequest that names the field."""
        if len(grammar.source) > MAX_GRAMMAR_CHARS:
            raise InvalidRequest(
                f"{grammar.param} has {len(grammar.source):,} characters, the limit is "
                f"{MAX_GRAMMAR_CHARS:,}: give a smaller schema",
                param=grammar.param,
            )
        matcher = LLMatcher(self._indexed(), _source(grammar), log_level=0, limits=_limits())
        if matcher.is_error():
            problem = " ".join(matcher.get_error().split())[:200]
            raise InvalidRequest(
                f"{grammar.param} cannot be followed: {problem}", param=grammar.param
            )
        return GrammarMask(matcher, self._vocabulary.vocab_size)

    def _indexed(self) -> LLTokenizer:
        """The vocabulary as the parser walks it: 0.4 s to make for 150,000 tokens."""
        with self._lock:
            if self._index is None:
                ends = list(self._vocabulary.eos_token_ids)
                words = TokenizerWrapper(_Words(self._vocabulary))
                self._index = LLTokenizer(words, n_vocab=len(words.tokens), eos_token=ends)
            return self._index


class GrammarMask:
    """Which tokens may follow in one text; follows it as it grows. One thread at a time."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._num_seen = 0

    def allowed(self, generated_ids: Sequence[int]) -> NDArray[np.bool_]:
        """[vocab_size] of what may come after these: the ends where the text is complete, nothing
        where a step would cost too much.
        """
        new = list(generated_ids[self._num_seen :])
        self._num_seen = len(generated_ids)
        if new:
            self._matcher.consume_tokens(new)
        if self._matcher.is_error():
            return np.zeros(self._vocab_size, np.bool_)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            return np.zeros(self._vocab_size, np.bool_)
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)


class _Words:
    """A vocabulary as llguidance asks for it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = vocabulary.eos_token_ids[0]
        self.bos_token_id = None
        self.tokens = [vocabulary.token_bytes(i) for i in range(vocabulary.vocab_size)]
        self.special_token_ids = sorted(vocabulary.special_ids)

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.encode(text)


def _source(grammar: Grammar) -> str:
    """The grammar in the parser's own form. Raises InvalidRequest for JSON that is none."""
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    try:
        schema = json.loads(grammar.source)
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _BLANKS})
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{grammar.param} is no schema: {error}", param=grammar.param
        ) from None


def _limits() -> LLParserLimits:
    """The parser's own, but for those that bound memory: a state of the lexer takes up to 2 KB."""
    return LLParserLimits(max_lexer_states=50_000, max_grammar_size=100_000, verbose_errors=False)
