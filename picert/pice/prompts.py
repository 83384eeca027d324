"""Prompt texts, from versioned data files (`prompts/*.toml`); the same object serves the cloud and the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picert.messages import ChatMessage, ExpandJob, SamplingParams, Segment


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine needs to write one text: the turns, the start of the assistant's turn, and how to sample."""

    messages: tuple[ChatMessage, ...]
    prefill: str
    sampling: SamplingParams


class PromptBook:
    """All prompts of one version, read-only."""

    def direct(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, written: str = ""
    ) -> Prompt:
        """A whole answer; `written` is answer text that the user has already seen and that is to be continued."""
        raise NotImplementedError

    def sketch(self, question: str, max_points: int, sketch_tokens: int) -> Prompt:
        """A sketch of at most `max_points` lines; the prefill "1." is part of the sketch's text."""
        raise NotImplementedError

    def expand(self, job: ExpandJob, segment: Segment) -> Prompt:
        """The text of one segment of `job`. All prompts of one request share their beginning: rules, examples,
        question and the sketch lines in order; what differs (the last line, the heading) stands at the end."""
        raise NotImplementedError


def load_prompts() -> PromptBook:
    """Read the package's prompt files. Raises ConfigError if one is missing or malformed."""
    raise NotImplementedError
