"""Tally: what the cloud's service counts of its questions. Plain numbers; `metrics` shows them.

No label is a request's id or text: every key is from a fixed set, or the name of a model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from picert.engine.stats import Histogram
from picert.errors import PicertError
from picert.messages import Done, Request
from picert.pice.reasons import Why, why

_TOKENS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def _tokens() -> Histogram:
    return Histogram(_TOKENS)


@dataclass(slots=True)
class Tally:
    """Since the start of the service; one event loop writes."""

    routes: Counter[tuple[str, Why]] = field(default_factory=Counter)  # route, reason
    finished: Counter[str] = field(default_factory=Counter)  # how accepted questions ended
    refused: Counter[str] = field(default_factory=Counter)  # why others were not taken
    fallbacks: Counter[tuple[str, str]] = field(default_factory=Counter)  # stage, reason
    wins: Counter[str] = field(default_factory=Counter)  # segments whose text a model wrote
    checks: Counter[str] = field(default_factory=Counter)  # by the cloud: agreed, changed, late
    tokens_saved: int = 0  # of visible answers, that the cloud did not write
    first_text: Histogram = field(default_factory=Histogram)
    sketch_first_token: Histogram = field(default_factory=Histogram)
    whole: Histogram = field(default_factory=Histogram)
    sketch_tokens: Histogram = field(default_factory=_tokens)
    length_error: Histogram = field(default_factory=_tokens)
    confidence: Histogram = field(default_factory=lambda: Histogram(_SHARES))

    def answer(self, request: Request, done: Done, expected_tokens: int, decided: str) -> None:
        """A question was answered; `expected_tokens` is what the plan took its length for, and
        `decided` its last reason."""
        self.routes[done.route, "requested" if request.route != "auto" else why(decided)] += 1
        if done.completion_tokens:
            self.first_text.add(done.first_text_s)
        self.tokens_saved += max(0, done.completion_tokens - done.usage.cloud_completion_tokens)
        for segment in done.segments:
            self.wins[segment.model] += 1
        if done.route == "direct" and done.finish_reason == "stop":
            self.length_error.add(abs(done.completion_tokens - expected_tokens))

    def end(self, outcome: str, seconds: float) -> None:
        """An accepted question ended, however it did."""
        self.finished[outcome] += 1
        self.whole.add(seconds)

    def fall_back(self, stage: str, error: PicertError | None = None) -> None:
        """Something had to be done again, or by somebody else; without an error it was unfit."""
        self.fallbacks[stage, "unfit" if error is None else error.code or error.kind] += 1
