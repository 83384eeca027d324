"""Speed of one model on one machine, learned from real steps; seconds predicted from it."""

from __future__ import annotations


class SpeedProfile:
    """Prefill in tokens per second, and seconds per decoded token by batch size; exponential means.

    `observe_*` never raises: a sample that cannot be true (no tokens, no or negative time) is left out.
    """

    def __init__(
        self, prefill_tokens_per_s: float = 200.0, decode_s_per_token: float = 0.1
    ) -> None:
        raise NotImplementedError

    def observe_prefill(self, tokens: int, seconds: float) -> None:
        """`tokens` prompt tokens (without cached ones) took `seconds`."""
        raise NotImplementedError

    def observe_decode(self, tokens: int, seconds: float, batch: int = 1) -> None:
        """One sequence of a batch of `batch` got `tokens` new tokens in `seconds`."""
        raise NotImplementedError

    def observe(self, prompt_tokens: int, new_tokens: int, seconds: float, batch: int = 1) -> None:
        """A whole job took `seconds`; both rates move by what the prediction missed, in proportion."""
        raise NotImplementedError

    def prefill_seconds(self, tokens: int) -> float:
        """Predicted seconds to read `tokens` prompt tokens."""
        raise NotImplementedError

    def decode_seconds(self, tokens: int, batch: int = 1) -> float:
        """Predicted seconds for one sequence to get `tokens` tokens in a batch of `batch`."""
        raise NotImplementedError


def predicted_seconds(
    profile: SpeedProfile, prompt_tokens: int, new_tokens: int, batch: int = 1
) -> float:
    """Predicted seconds of one job that starts now: read the prompt, then write."""
    raise NotImplementedError
