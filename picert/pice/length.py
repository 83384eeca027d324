"""Predicted length of a direct answer, learned while serving. One owned object, no global state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LengthForecast:
    """Tokens of a direct answer: the median and the ninth decile."""

    p50: int
    p90: int


def requested_points(question: str) -> int | None:
    """The number of items that `question` asks for ("list 10 …", "three ways"), if it names one."""
    raise NotImplementedError


class LengthPredictor:
    """Running quantiles of answer lengths per question class and prompt-length bin."""

    def predict(self, question: str) -> LengthForecast:
        """Forecast for `question`: an explicit cue in it wins, then what was observed of its kind, then a prior."""
        raise NotImplementedError

    def observe(self, question: str, tokens: int) -> None:
        """Learn that the direct answer to `question` had `tokens` tokens."""
        raise NotImplementedError
