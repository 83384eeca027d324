"""Function calls in what a model writes: how its chat template tells it to write them, and how they
are read again, piece by piece.

Two conventions are known, told apart by the template: Hermes' (`<tool_call>` around a JSON object
with name and arguments; Qwen too) and Llama's (the whole answer is a JSON object with name and
parameters).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from picert.errors import InvalidRequest
from picert.messages import Grammar, ToolCall

Convention = Literal["hermes", "llama"]
Piece = str | ToolCall  # of an answer
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_PYTHON_TAG = "<|python_tag|>"
# Quotes may be escaped, as in the source of a template.
_ARGUMENTS = re.compile(r'\\?"arguments\\?":')
_PARAMETERS = re.compile(r'\\?"parameters\\?":')
_OTHERS = re.compile(r"<function=|<arg_key>|\[TOOL_CALLS\]")  # of conventions that look alike
_MAX_HELD = 64 << 10  # characters of a call that does not end: then it is text


def convention_of(template: str | None) -> Convention:
    """How a model with this chat template calls functions. Raises InvalidRequest if it cannot, or
    in a way that is not known here.
    """
    source = template or ""
    if not re.search(r"\btools\b", source):
        raise InvalidRequest(
            "tools are given, and the model's chat template knows none: use another model",
            param="tools",
        )
    if _OPEN in source and _ARGUMENTS.search(source) and not _OTHERS.search(source):
        return "hermes"
    if _PARAMETERS.search(source) and not _OTHERS.search(source):
        return "llama"
    raise InvalidRequest(
        "tools are given, and the model's chat template calls them in a way that is not known "
        "here (Hermes' and Llama's JSON are): use another model",
        param="tools",
    )


def calls_grammar(
    convention: Convention, functions: list[dict[str, Any]], parallel: bool
) -> Grammar:
    """The form of an answer that calls one of `functions` (`name`, `parameters`), or, where
    `parallel`, several in turn.
    """
    key = "arguments" if convention == "hermes" else "parameters"
    calls = []
    rules = []
    for i, function in enumerate(functions):
        schema = {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                key: function.get("parameters") or {"type": "object"},
            },
            "required": ["name", key],
            "additionalProperties": False,
            "x-guidance": {"whitespace_pattern": " "},  # one line, one blank between its parts
        }
        calls.append(f"call{i}")
        rules.append(f"call{i}: %json {json.dumps(schema)}")
    rules.insert(0, "call: " + " | ".join(calls))
    if convention == "hermes":
        rules.insert(0, rf'block: "{_OPEN}\n" call "\n{_CLOSE}"')
        rules.insert(0, r'start: block ("\n" block)*' if parallel else "start: block")
    else:
        rules.insert(0, 'start: call ("; " call)*' if parallel else "start: call")
    return Grammar("lark", "\n".join(rules), "tools")


@dataclass(slots=True)
class CallReader:
    """Text of an answer -> text to show and calls, in order. What may begin a call is held back;
    what turns out to be none is text after all.
    """

    convention: Convention
    names: frozenset[str]  # a call of anything else is text
    max_calls: int | None = None  # further ones are dropped
    num_calls: int = 0
    _held: str = field(default="", init=False)
    _has_text: bool = field(default=False, init=False)

    def push(self, text: str) -> list[Piece]:
        """Take more of the answer; return what is certain."""
        self._held += text
        return self._read_hermes() if self.convention == "hermes" else self._read_llama()

    def finish(self) -> list[Piece]:
        """The answer is over: what is held back is a call or text."""
        text, self._held = self._held, ""
        if self.convention == "llama" and not self._has_text:
            return self._llama_calls(text) or self._shown(text)
        if text.lstrip().startswith(_OPEN):  # the model ended its turn within the marker
            body = text.lstrip().removeprefix(_OPEN)
            call = self._call(body, "arguments")
            if call is not None:
                return self._taken(call)
        return self._shown(text)

    def _read_hermes(self) -> list[Piece]:
        found: list[Piece] = []
        while True:
            start = self._held.find(_OPEN)
            if start < 0:
                found += self._shown(self._cut(len(self._held) - _length_held(self._held)))
                return found
            found += self._shown(self._cut(len(self._held[:start].rstrip())))
            end = self._held.find(_CLOSE)
            if end < 0:
                if len(self._held) > _MAX_HELD:
                    found += self._shown(self._cut(len(self._held)))
                return found
            block = self._cut(end + len(_CLOSE))
            body = block.lstrip().removeprefix(_OPEN).removesuffix(_CLOSE)
            call = self._call(body, "arguments")
            found += self._shown(block) if call is None else self._taken(call)

    def _read_llama(self) -> list[Piece]:
        """The whole answer is a call, or none of it."""
        head = self._held.lstrip()
        may_be_call = head.startswith("{") or _PYTHON_TAG.startswith(head[: len(_PYTHON_TAG)])
        if not self._has_text and may_be_call and len(self._held) <= _MAX_HELD:
            return []
        return self._shown(self._cut(len(self._held)))

    def _llama_calls(self, text: str) -> list[Piece]:
        """The calls that `text` is, none if anything else is in it."""
        rest = text.strip().removeprefix(_PYTHON_TAG).strip()
        calls: list[ToolCall] = []
        while rest:
            try:
                _, end = json.JSONDecoder().raw_decode(rest)
            except (ValueError, RecursionError):
                return []
            call = self._call(rest[:end], "parameters")
            if call is None:
                return []
            calls.append(call)
            rest = rest[end:].lstrip(" ;\n")
        return [piece for call in calls for piece in self._taken(call)]

    def _call(self, body: str, key: str) -> ToolCall | None:
        """The call that a JSON object is, or None."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or value.get("name") not in self.names:
            return None
        arguments = value.get(key, value.get("arguments", {}))
        if not isinstance(arguments, dict):
            return None
        return ToolCall("", value["name"], json.dumps(arguments, ensure_ascii=False))

    def _taken(self, call: ToolCall) -> list[Piece]:
        if self.max_calls is not None and self.num_calls >= self.max_calls:
            return []
        self.num_calls += 1
        return [call]

    def _shown(self, text: str) -> list[Piece]:
        if not text or (self.num_calls and not text.strip()):
            return []
        self._has_text = True
        return [text]

    def _cut(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text


def _length_held(text: str) -> int:
    """Length of the end of `text` that may begin a call: of the marker, with the blanks before."""
    longest = min(len(_OPEN) - 1, len(text))
    size = next(n for n in range(longest, -1, -1) if _OPEN.startswith(text[len(text) - n :]))
    return len(text) - len(text[: len(text) - size].rstrip())
