"""ChatTemplate: a conversation written the way a model was trained to read it.

The template's own special markers become special tokens; markers inside messages stay text. To tell
them apart, the first character of each marker in a message is replaced by a stand-in (a private-use
character that occurs nowhere) before rendering, and put back in the text between the markers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any, Protocol

from picert.errors import InvalidRequest, ModelError
from picert.models.template_sandbox import compile_template, run_template

_STAND_INS = range(0xF0000, 0xFFFFE)  # a private-use plane of Unicode
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


Tool = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}


class ToolCall(Protocol):
    """A function that the assistant wants to have called."""

    @property
    def id(self) -> str:
        """Names the call in its result's turn."""

    @property
    def name(self) -> str:
        """Of the function."""

    @property
    def arguments(self) -> str:
        """JSON."""


class Message(Protocol):
    """One turn of a conversation."""

    @property
    def role(self) -> str:
        """Who speaks: system, user, assistant or tool."""

    @property
    def content(self) -> str:
        """What is said."""

    @property
    def tool_calls(self) -> Sequence[ToolCall]:
        """What the assistant calls."""

    @property
    def tool_call_id(self) -> str | None:
        """The call whose result this is."""

    @property
    def name(self) -> str | None:
        """Of the speaker, if it has one."""


def default_template(special: Mapping[str, int]) -> str | None:
    """ChatML for a model that has no template but has ChatML's markers, else None."""
    return CHATML if {"<|im_start|>", "<|im_end|>"} <= special.keys() else None


class ChatTemplate:
    """A compiled template with the special tokens that it may write. Immutable."""

    def __init__(
        self, source: str | None, variables: Mapping[str, str], special: Mapping[str, int]
    ) -> None:
        """`variables` are bos_token and the like, `special` maps marker to id.

        Compiles at first use, so a model whose template is broken still completes raw prompts.
        """
        self.source = source
        self._variables = variables
        self._special = {marker: token_id for marker, token_id in special.items() if marker}
        longest_first = sorted(self._special, key=lambda marker: (-len(marker), marker))
        self._marker = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._heads = frozenset(
            marker[:n] for marker in self._special for n in range(1, len(marker))
        )
        self._longest_head = max(map(len, self._heads), default=0)
        self._code: CodeType | None = None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The conversation as one text, for people to read: it does not tell whose a marker is.

        Raises as `parts` does.
        """
        return self._run([_turn(m) for m in messages], None, add_generation_prompt)

    def parts(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        prefill: str = "",
        tools: Sequence[Tool] = (),
    ) -> list[int | str]:
        """The conversation as special token ids and the plain text between them.

        `prefill` follows the template's text. Raises InvalidRequest if there are no messages or the
        template refuses them, ModelError if there is no template or it is broken.
        """
        given = [[_turn(m) for m in messages], list(tools), prefill]
        stand_ins = self._choose_stand_ins([*_texts(given)])
        turns, tools, prefill = _mapped(given, lambda text: self._guard(text, stand_ins))
        text = self._run(turns, tools or None, add_generation_prompt) + prefill
        return self._split(text, {stand_in: char for char, stand_in in stand_ins.items()})

    def _run(
        self,
        turns: list[dict[str, Any]],
        tools: Sequence[Tool] | None,
        add_generation_prompt: bool,
    ) -> str:
        if not turns:
            raise InvalidRequest("messages is empty: give at least one", param="messages")
        if self.source is None:
            raise ModelError("the model has no chat template: give one with --chat-template")
        if self._code is None:
            self._code = compile_template(self.source)
        variables: dict[str, Any] = {
            "messages": turns,
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "documents": None,
            **self._variables,
        }
        return run_template(self._code, variables)

    def _choose_stand_ins(self, texts: Sequence[str]) -> dict[str, str]:
        """First character of a marker -> a character that occurs in no text."""
        used = set().union(*texts)
        free = (chr(code) for code in _STAND_INS if chr(code) not in used)
        heads = sorted({marker[0] for marker in self._special} & used)
        stand_ins = dict(zip(heads, free, strict=False))
        if len(stand_ins) < len(heads):
            raise InvalidRequest("messages use up a whole private-use plane of Unicode")
        return stand_ins

    def _guard(self, text: str, stand_ins: Mapping[str, str]) -> str:
        """`text` without any marker, nor a beginning of one at its end."""
        while self._marker.search(text):
            text = self._marker.sub(lambda m: stand_ins[m[0][0]] + m[0][1:], text)
        end = len(text.rstrip())
        for start in range(max(0, end - self._longest_head), end):
            if text[start:end] in self._heads:
                text = text[:start] + stand_ins[text[start]] + text[start + 1 :]
        return text

    def _split(self, text: str, originals: Mapping[str, str]) -> list[int | str]:
        table = {ord(stand_in): char for stand_in, char in originals.items()}
        parts: list[int | str] = []
        at = 0
        for match in self._marker.finditer(text):
            parts += [text[at : match.start()].translate(table), self._special[match[0]]]
            at = match.end()
        parts.append(text[at:].translate(table))
        return [part for part in parts if part != ""]


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates take it: what it does not have is not there, not None."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        turn["name"] = message.name
    return turn


def _call(call: ToolCall) -> dict[str, Any]:
    """Templates write the arguments themselves, so they get them as values."""
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same with `change` done to every text in it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
