"""Prompt texts, from versioned data files (`prompts/*.toml`); one object serves cloud and edges.

A file holds turns, the beginning of the model's turn (`prefill`) and how to sample. Its fields in
braces are filled in one pass, so braces in a user's text stay text. A user's question stands on
one line, so it cannot forge the lines of an outline; chat markers in it are the tokenizer's care.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picert.config import read_toml
from picert.errors import ConfigError, InvalidRequest
from picert.messages import (
    ChatMessage,
    ExpandJob,
    Grammar,
    Request,
    SamplingParams,
    Segment,
)
from picert.pice.sketch import heading
from picert.pice.wording import one_line

PROMPT_FOLDER = Path(__file__).parent / "prompts"
_VERSION = 1
_FIELD = re.compile(r"\{(\w+)\}")
_WORDS_PER_TOKEN = 0.6
_SKETCH_FIELDS = frozenset({"question", "max_points", "max_words"})
_EXPAND_FIELDS = frozenset({"question", "outline", "number", "line", "heading"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine needs to write one text: the turns, the start of the assistant's turn, and
    how to sample; or `raw`, a text or token ids that are completed as they stand."""

    messages: tuple[ChatMessage, ...]
    prefill: str
    sampling: SamplingParams
    tools: tuple[dict[str, Any], ...] = ()
    add_generation_prompt: bool = True
    raw: str | tuple[int, ...] | None = None
    grammar: Grammar | None = None  # what the text must be


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """One prompt file: turns and prefill with fields in braces, and sampling parameters."""

    messages: tuple[ChatMessage, ...]
    prefill: str
    sampling: Mapping[str, Any]
    variation: Mapping[str, Any]  # of the sampling, for candidates after the first

    def fill(
        self, fields: Mapping[str, str], *, max_tokens: int, seed: int | None, candidate: int = 0
    ) -> Prompt:
        """The prompt with every field replaced, once: what a value holds is not looked at again."""
        messages = tuple(ChatMessage(m.role, _fill(m.content, fields)) for m in self.messages)
        options = {**self.sampling, **self.variation} if candidate else self.sampling
        sampling = SamplingParams(**options, max_tokens=max_tokens, seed=seed)
        return Prompt(messages, _fill(self.prefill, fields), sampling)

    def own_texts(self) -> tuple[str, ...]:
        """What the turns hold whatever their fields are: rules and examples."""
        return tuple(m.content for m in self.messages if not _FIELD.search(m.content))


@dataclass(frozen=True, slots=True)
class PromptBook:
    """All prompts of one version, read-only."""

    sketch_template: PromptTemplate
    expand_template: PromptTemplate

    def direct(self, request: Request, written: str = "") -> Prompt:
        """A whole answer; `written` is answer text that the user has already seen and that is to
        be continued."""
        return Prompt(
            messages=request.messages,
            prefill=request.opening + written,
            sampling=request.sampling,
            tools=request.tools,
            add_generation_prompt=request.add_generation_prompt,
            raw=request.prompt,
            grammar=request.grammar,
        )

    def sketch(self, question: str, max_points: int, sketch_tokens: int) -> Prompt:
        """A sketch of at most `max_points` lines; the prefill "1." is part of the sketch's text."""
        fields = {
            "question": one_line(question),
            "max_points": str(max_points),
            "max_words": str(round(sketch_tokens * _WORDS_PER_TOKEN)),
        }
        return self.sketch_template.fill(fields, max_tokens=sketch_tokens, seed=None)

    def expand(self, job: ExpandJob, segment: Segment) -> Prompt:
        """The text of one segment of `job`. All prompts of one request share their beginning:
        rules, examples, question and the sketch lines in order, up to the segment's own. Later
        lines are left out even if they are known, so that a prompt does not depend on when it was
        made; what differs stands at the end."""
        lines = [one_line(line) for line in job.outline[: segment.index + 1]]
        line = one_line(segment.text)
        fields = {
            "question": one_line(job.question),
            "outline": "\n".join(f"{n}. {line}" for n, line in enumerate(lines, start=1)),
            "number": str(segment.index + 1),
            "line": line,
            "heading": heading(line),
        }
        prompt = self.expand_template.fill(
            fields, max_tokens=job.max_tokens, seed=job.seed, candidate=job.candidate
        )
        is_first = segment.index == job.segments[0].index
        if not (job.written and is_first):
            return prompt
        return Prompt(prompt.messages, f"{prompt.prefill} {job.written}", prompt.sampling)


def load_prompts(folder: Path = PROMPT_FOLDER) -> PromptBook:
    """Read the prompt files of `folder`, by default the package's. Raises ConfigError if one is
    missing or malformed."""
    return PromptBook(
        sketch_template=_read_template(folder / "sketch.toml", _SKETCH_FIELDS),
        expand_template=_read_template(folder / "expand.toml", _EXPAND_FIELDS),
    )


def _read_template(path: Path, known_fields: frozenset[str]) -> PromptTemplate:
    table = read_toml(path)
    if table.get("version") != _VERSION:
        raise ConfigError(f"{path.name}: version is {table.get('version')!r}, must be {_VERSION}")
    try:
        messages = tuple(ChatMessage(turn["role"], turn["content"]) for turn in table["messages"])
        sampling: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in table["sampling"].items()
        }
        variation: dict[str, Any] = table.get("variation", {})
        SamplingParams(**{**sampling, **variation})
        template = PromptTemplate(messages, table["prefill"], sampling, variation)
        texts = [template.prefill, *(message.content for message in messages)]
        unknown = {name for text in texts for name in _FIELD.findall(text)} - known_fields
    except (KeyError, TypeError, AttributeError, InvalidRequest) as error:
        raise ConfigError(f"{path.name}: {type(error).__name__}: {error}") from None
    if unknown:
        raise ConfigError(f"{path.name}: unknown field {{{min(unknown)}}}")
    return template


def _fill(text: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: fields[match[1]], text)
