"""A Vocabulary built from GGUF metadata: byte-level BPE, or SentencePiece BPE from its scores.

The file names its pre-tokenizer (`tokenizer.ggml.pre`) but does not hold it, so the patterns stand
here. An unknown name is an error: a near miss would give wrong ids in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from picert.errors import ModelError
from picert.models.vocabulary import Vocabulary, end_token_ids

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_HIDDEN = frozenset({_UNKNOWN, _CONTROL, _UNUSED})

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2_PATTERN = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS_AND_SPACE}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Splitting:
    """How text is cut into words before BPE. A pattern of None is GPT-2's."""

    pattern: str | None = None
    single_digits: bool = False  # each digit is a word, before all else
    nfc: bool = False
    whole_words: bool = False  # a word that is a token is taken as it is, without merging
    adds_bos: bool = False  # unless the file says otherwise


_GPT2 = _Splitting()
_LLAMA3 = _Splitting(
    rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS_AND_SPACE}", whole_words=True, adds_bos=True
)
_SPLITTINGS: Mapping[str, _Splitting] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "gpt2": _GPT2,
    "smollm": _Splitting(single_digits=True),
    "qwen2": _Splitting(_QWEN2_PATTERN, nfc=True),
    "deepseek-r1-qwen": _Splitting(_QWEN2_PATTERN),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "tekken": _Splitting(_TEKKEN, whole_words=True, adds_bos=True),
}


def read_gguf_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in a GGUF file's `tokenizer.*` metadata.

    Raises ModelError if something is missing or malformed, or of a kind that is not supported.
    """
    kind = _text(metadata, "tokenizer.ggml.model")
    tokens = _array(metadata, "tokenizer.ggml.tokens", str)
    types = _array(metadata, "tokenizer.ggml.token_type", int, default=[_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(f"the file has {len(tokens)} tokens and {len(types)} token types")
    try:
        if kind == "gpt2":
            return _byte_level(metadata, tokens, types)
        if kind == "llama":
            return _sentencepiece(metadata, tokens, types)
    except ModelError:
        raise
    except Exception as error:  # the backend raises bare Exceptions for a merge it does not know
        raise ModelError(f"the tokenizer cannot be built: {error}") from None
    raise ModelError(f"tokenizer.ggml.model is {kind!r}, supported are 'gpt2' and 'llama'")


def _byte_level(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> Vocabulary:
    name = _text(metadata, "tokenizer.ggml.pre", default="default")
    splitting = _SPLITTINGS.get(name)
    if splitting is None:
        raise ModelError(f"pre-tokenizer {name!r} is not known, known are {', '.join(_SPLITTINGS)}")
    merges = [_merge(line) for line in _array(metadata, "tokenizer.ggml.merges", str)]
    vocab = _reachable_names(tokens, types)
    backend = Backend(BPE(vocab=vocab, merges=merges, ignore_merges=splitting.whole_words))
    if splitting.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(_word_cutters(splitting))
    _add_user_defined(backend, tokens, types, normalized=False)
    literal = _HIDDEN | {_USER_DEFINED}
    return Vocabulary(
        backend=backend,
        spelling="byte_level",
        literal_ids=frozenset(i for i, kind in enumerate(types) if kind in literal),
        **_common(metadata, tokens, types, adds_bos=splitting.adds_bos),
    )


def _word_cutters(splitting: _Splitting) -> list[pre_tokenizers.PreTokenizer]:
    cutters: list[pre_tokenizers.PreTokenizer] = []
    if splitting.single_digits:
        cutters.append(pre_tokenizers.Digits(individual_digits=True))
    if splitting.pattern is not None:
        cutters.append(pre_tokenizers.Split(Regex(splitting.pattern), behavior="isolated"))
    use_regex = splitting.pattern is None
    return [*cutters, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)]


def _merge(line: str) -> tuple[str, str]:
    """`"left right"` as a pair; the blank is never the first character."""
    at = line.find(" ", 1)
    if at < 0:
        raise ModelError(f"tokenizer.ggml.merges holds {line[:40]!r}, wanted two tokens")
    return line[:at], line[at + 1 :]


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> Vocabulary:
    scores = _array(metadata, "tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise ModelError(f"the file has {len(tokens)} tokens and {len(scores)} scores")
    if _text(metadata, "general.architecture", default="").startswith("gemma"):
        # Its scores do not tell the order of merges, the ids do; runs of blanks are stored as such.
        scores = [-float(i) for i in range(len(tokens))]
        tokens = ["▁" * len(t) if t and not t.strip(" ") else t for t in tokens]
    vocab = _reachable_names(tokens, types)
    unknown = next((name for name, i in vocab.items() if types[i] == _UNKNOWN), None)
    pieces = [i for i, kind in enumerate(types) if kind in (_NORMAL, _USER_DEFINED)]
    merges = _merges_from_scores({tokens[i]: (scores[i], i) for i in pieces})
    model = BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = Backend(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    # Normalised: pieces such as ▁▁ are looked for after blanks have become ▁.
    _add_user_defined(backend, tokens, types, normalized=True)
    prefix = _flag(metadata, "tokenizer.ggml.add_space_prefix", default=True)
    return Vocabulary(
        backend=backend,
        spelling="sentencepiece",
        space_prefix="sentence" if prefix else "none",
        strips_blank=prefix,
        literal_ids=frozenset(i for i, kind in enumerate(types) if kind in _HIDDEN),
        **_common(metadata, tokens, types, adds_bos=True),
    )


def _reachable_names(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """name -> id for the backend, in which special tokens have names that no text can spell."""
    return {
        f"\0{token_id}" if kind in _HIDDEN else token: token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True))
    }


def _add_user_defined(
    backend: Backend, tokens: Sequence[str], types: Sequence[int], *, normalized: bool
) -> None:
    """Have the backend cut out user-defined tokens (`<tool_call>`, blanks) before all else."""
    added = [token for token, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED]
    backend.add_tokens([AddedToken(token, normalized=normalized) for token in added if token])


def _merges_from_scores(pieces: Mapping[str, tuple[float, int]]) -> list[tuple[str, str]]:
    """All pairs that make up a piece, best score first: the order SentencePiece merges in.

    `pieces` maps text to score and id; of equal scores, the longer left and right go first.
    """
    ranked = []
    for token, (score, token_id) in pieces.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in pieces and right in pieces:
                ranked.append((-score, -cut, cut - len(token), token_id, left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _common(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], *, adds_bos: bool
) -> dict[str, Any]:
    """The fields of a Vocabulary that do not depend on the kind of tokenizer."""
    special = {tokens[i]: i for i, kind in enumerate(types) if kind in _HIDDEN and tokens[i]}
    names = ("bos", "eos", "eot", "eom", "unknown", "padding")
    ids = {name: _token_id(metadata, name, len(tokens)) for name in names}
    declared = tuple(i for i in (ids["eos"], ids["eot"], ids["eom"]) if i is not None)
    return {
        "tokens": tuple(tokens),
        "special": special,
        "bos_token_id": ids["bos"],
        "adds_bos": _flag(metadata, "tokenizer.ggml.add_bos_token", default=adds_bos),
        "eos_token_ids": end_token_ids(special, declared),
        "unk_token_id": ids["unknown"],
        "pad_token_id": ids["padding"],
        "chat_template": _text(metadata, "tokenizer.chat_template", default="") or None,
    }


def _token_id(metadata: Mapping[str, Any], name: str, vocab_size: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < vocab_size:
        raise ModelError(
            f"tokenizer.ggml.{name}_token_id is {value!r}, wanted an id below {vocab_size}"
        )
    return value


def _text(metadata: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = metadata.get(key, default)
    if not isinstance(value, str):
        raise ModelError(f"{key} is {'missing' if value is None else 'no text'}, wanted a text")
    return value


def _flag(metadata: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise ModelError(f"{key} is {value!r}, wanted true or false")
    return value


def _array(
    metadata: Mapping[str, Any], key: str, kind: type, default: Sequence[Any] | None = None
) -> Sequence[Any]:
    value = metadata.get(key, default)
    if not isinstance(value, (list, tuple)) or not all(type(item) is kind for item in value):
        raise ModelError(f"{key} is missing or malformed, wanted an array of {kind.__name__}")
    if not value:
        raise ModelError(f"{key} is empty")
    return value
