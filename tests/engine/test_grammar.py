"""Grammars as masks: what they let through, what they refuse, and what they may cost."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import numpy as np
import pytest
from tiny_vocab import tiny_gguf_tokenizer

from picert.engine.grammar import MAX_GRAMMAR_CHARS, GrammarCompiler, GrammarMask
from picert.errors import InvalidRequest
from picert.messages import Grammar

TOKENIZER = tiny_gguf_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER)
ENDS = set(TOKENIZER.eos_token_ids)
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "mood": {"enum": ["calm", "tense"]}},
    "required": ["age", "mood"],
    "additionalProperties": False,
}


def compiled(schema: Any) -> GrammarMask:
    return COMPILER.compile(Grammar("json_schema", json.dumps(schema), "response_format"))


def allowed_after(mask: GrammarMask, ids: list[int]) -> set[int]:
    return set(np.flatnonzero(mask.allowed(ids)).tolist())


def is_accepted(mask: GrammarMask, text: str) -> bool:
    """Whether a model could write exactly `text` and end."""
    ids = TOKENIZER.encode(text)
    for n, token_id in enumerate(ids):
        if token_id not in allowed_after(mask, ids[:n]):
            return False
    return bool(allowed_after(mask, ids) & ENDS)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"age": 7, "mood": "calm"}', True),
        ('{"age":7,"mood":"tense"}', True),
        ('{\n  "age": -12,\n  "mood": "calm"\n}', True),
        ('{"age": 7}', False),
        ('{"age": 7, "mood": "angry"}', False),
        ('{"age": "7", "mood": "calm"}', False),
        ('{"age": 7, "mood": "calm"} and', False),
        ('Sure: {"age": 7, "mood": "calm"}', False),
        ('{"age":' + " " * 20 + '7, "mood": "calm"}', False),  # blanks are bounded
    ],
)
def test_a_schema_lets_through_what_fits_it(text: str, fits: bool) -> None:
    assert is_accepted(compiled(PERSON), text) == fits


def test_whatever_is_drawn_from_the_masks_is_json_of_the_schema() -> None:
    rng = random.Random(1)
    for _ in range(20):
        mask, ids = compiled(PERSON), list[int]()
        while not (choices := allowed_after(mask, ids)) & ENDS:
            ids.append(rng.choice(sorted(choices)))
        value = json.loads(TOKENIZER.decode(ids))
        assert isinstance(value["age"], int)
        assert value["mood"] in ("calm", "tense")


def test_only_an_end_follows_a_complete_text() -> None:
    mask = compiled({"type": "boolean"})
    assert allowed_after(mask, TOKENIZER.encode("true")) == ENDS


def test_special_tokens_are_never_part_of_the_text() -> None:
    mask = compiled({"type": "string"})
    inside = allowed_after(mask, TOKENIZER.encode('"a'))
    assert not inside & set(TOKENIZER.special_ids)


def test_a_lark_grammar_may_hold_a_schema() -> None:
    source = f'start: "<call>" body "</call>"\nbody: %json {json.dumps(PERSON)}'
    mask = COMPILER.compile(Grammar("lark", source, "tools"))
    assert is_accepted(mask, '<call>{"age": 7, "mood": "calm"}</call>')


def test_masks_of_one_grammar_do_not_know_of_each_other() -> None:
    first, second = compiled(PERSON), compiled(PERSON)
    first.allowed(TOKENIZER.encode('{"age": 7'))
    assert is_accepted(second, '{"age": 7, "mood": "calm"}')


@pytest.mark.parametrize(
    "source",
    [
        '{"type": "robot"}',
        '{"$ref": "#/nowhere"}',
        '{"type": "string", "pattern": "("}',
        '{"type": "object", "not": {}}',  # known to JSON schema, not to us
        "[]",
        "{",
        "[" * 50_000,
        json.dumps({"enum": ["x" * MAX_GRAMMAR_CHARS]}),
    ],
)
def test_bad_schemas_are_refused_in_one_line_that_names_the_field(source: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        COMPILER.compile(Grammar("json_schema", source, "response_format"))
    assert refusal.value.param == "response_format"
    assert "response_format" in refusal.value.message
    assert "\n" not in refusal.value.message
    assert len(refusal.value.message) < 300


_WIDE = {f"k{i}": {"type": "string", "pattern": "(a|b){1,50}c*"} for i in range(30)}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a|b)*a(a|b){5000}"},
        {"type": "string", "pattern": "((a|aa|aaa|b)*c?){100}d"},
        {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
        {"type": "array", "minItems": 1_000_000},
        {"type": "string", "minLength": 100_000, "maxLength": 1_000_000},
        {"anyOf": [{"type": "object", "properties": _WIDE} for _ in range(20)]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
    ],
)
def test_no_schema_costs_much_to_compile_or_to_follow(schema: Any) -> None:
    began = time.process_time()
    ids: list[int] = []
    try:
        mask = compiled(schema)
        for _ in range(100):
            choices = allowed_after(mask, ids) - ENDS
            if not choices:
                break
            ids.append(max(choices))
    except InvalidRequest:
        pass
    assert time.process_time() - began < 2.0  # most take 10 ms


def test_a_text_that_left_the_grammar_may_not_go_on() -> None:
    mask = compiled(PERSON)
    assert allowed_after(mask, TOKENIZER.encode("no")) == set()
