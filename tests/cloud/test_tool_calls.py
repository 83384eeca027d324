"""Reading calls out of text: both conventions, cut anywhere, and what is no call after all."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.cloud.tool_calls import CallReader, Convention, convention_of
from picert.errors import InvalidRequest
from picert.messages import ToolCall

NAMES = frozenset({"f", "g"})
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1, "b": "é </tool"}}\n</tool_call>'
OTHER = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
F = ("f", '{"a": 1, "b": "é </tool"}')
G = ("g", "{}")


def read(convention: Convention, pieces: list[str], max_calls: int | None = None) -> list[object]:
    """Text and calls (name, arguments), neighbouring texts joined."""
    reader = CallReader(convention, NAMES, max_calls)
    found: list[object] = []
    for piece in [*(p for text in pieces for p in reader.push(text)), *reader.finish()]:
        if isinstance(piece, ToolCall):
            found.append((piece.name, piece.arguments))
        elif found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


HERMES = [
    (CALL, [F]),
    (f"{CALL}\n{OTHER}", [F, G]),
    (f"Let me see.\n{CALL}", ["Let me see.", F]),
    (f"{CALL}\n\nDone.", [F, "\n\nDone."]),
    ("No call at all < tool_call > here. ", ["No call at all < tool_call > here. "]),
    ("It ends with <tool", ["It ends with <tool"]),
    ('<tool_call>{"name": "f", "arguments": {}}', [("f", "{}")]),  # the turn ended before the mark
    ("<tool_call>not json</tool_call>", ["<tool_call>not json</tool_call>"]),
    (
        '<tool_call>{"name": "h", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": "h", "arguments": {}}</tool_call>'],
    ),
    ("", []),
]
LLAMA = [
    ('{"name": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}')]),
    ('<|python_tag|>{"name": "g", "parameters": {}}', [G]),
    ('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', [("f", "{}"), G]),
    ('{"name": "h", "parameters": {}}', ['{"name": "h", "parameters": {}}']),
    ('{"answer": 42}', ['{"answer": 42}']),
    ('Use {"name": "f", "parameters": {}}', ['Use {"name": "f", "parameters": {}}']),
    ("Plain words", ["Plain words"]),
]


@pytest.mark.parametrize(("text", "expected"), HERMES)
def test_hermes_calls_are_read(text: str, expected: list[object]) -> None:
    assert read("hermes", [text]) == expected


@pytest.mark.parametrize(("text", "expected"), LLAMA)
def test_llama_calls_are_read(text: str, expected: list[object]) -> None:
    assert read("llama", [text]) == expected


@given(st.data())
def test_result_does_not_depend_on_how_the_text_is_cut(data: st.DataObject) -> None:
    convention, cases = data.draw(st.sampled_from([("hermes", HERMES), ("llama", LLAMA)]))
    text, expected = data.draw(st.sampled_from(cases))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert read(convention, pieces) == expected


def test_text_before_a_call_is_shown_as_it_comes() -> None:
    reader = CallReader("hermes", NAMES)
    assert reader.push("Let me ") == ["Let me"]
    assert reader.push("see. <tool") == [" see."]
    assert reader.push("box>") == [" <toolbox>"]


def test_calls_over_the_limit_are_dropped() -> None:
    assert read("hermes", [f"{CALL}\n{OTHER}"], max_calls=1) == [F]


def test_a_call_that_does_not_end_becomes_text() -> None:
    reader = CallReader("hermes", NAMES)
    shown = "".join(str(p) for _ in range(9) for p in reader.push("<tool_call>" + "x" * 10_000))
    assert shown.startswith("<tool_call>xxx")


QWEN = 'tools … <tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <args>}\\n</tool_call>'
LLAMA3 = 'tools … Respond in the format {"name": function name, "parameters": dictionary}'


@pytest.mark.parametrize(("template", "convention"), [(QWEN, "hermes"), (LLAMA3, "llama")])
def test_convention_is_told_by_the_template(template: str, convention: str) -> None:
    assert convention_of(template) == convention


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for message in messages %}{{ message.content }}{% endfor %}",
        "tools <tool_call><function=name><parameter=a>",
        'tools [TOOL_CALLS] [{"name": "f", "arguments": {}, "parameters": {}}]',
        "tools <tool_call>name<arg_key>a</arg_key>",
    ],
)
def test_unknown_convention_is_refused_by_name(template: str | None) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        convention_of(template)
    assert refusal.value.param == "tools"


def test_arguments_are_the_text_of_an_object() -> None:
    [(_, arguments)] = read("hermes", [CALL])  # type: ignore[misc]
    assert json.loads(arguments) == {"a": 1, "b": "é </tool"}
