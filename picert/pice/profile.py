"""Speed of one model on one machine, learned from real steps; seconds predicted from it."""

from __future__ import annotations

import math

_RATE = 0.2  # weight of a new sample in the exponential mean
_MAX_SURPRISE = 8.0  # one sample moves an estimate as if it were at most this factor off


class SpeedProfile:
    """Prefill in tokens per second, and seconds per decoded token by batch size; exponential means.

    `observe_*` never raises: a sample that cannot be true (no tokens, no or negative time) is left
    out. Batch sizes share a bucket per power of two; one without samples borrows from the nearest.
    """

    def __init__(
        self, prefill_tokens_per_s: float = 200.0, decode_s_per_token: float = 0.1
    ) -> None:
        self._prefill_s = 1.0 / prefill_tokens_per_s  # per token
        self._decode_s = {0: decode_s_per_token}  # log2 of the batch size -> seconds per token

    def observe_prefill(self, tokens: int, seconds: float) -> None:
        """`tokens` prompt tokens (without cached ones) took `seconds`."""
        if _is_sane(tokens, seconds):
            self._prefill_s *= _nudge(seconds / tokens / self._prefill_s)

    def observe_decode(self, tokens: int, seconds: float, batch: int = 1) -> None:
        """One sequence of a batch of `batch` got `tokens` new tokens in `seconds`."""
        if _is_sane(tokens, seconds):
            known = self._per_token(batch)
            self._decode_s[_bucket(batch)] = known * _nudge(seconds / tokens / known)

    def observe(self, prompt_tokens: int, new_tokens: int, seconds: float, batch: int = 1) -> None:
        """A whole job took `seconds`; both rates move by what the prediction missed, in
        proportion."""
        expected = predicted_seconds(self, prompt_tokens, new_tokens, batch)
        if not _is_sane(prompt_tokens + new_tokens, seconds) or expected <= 0:
            return
        factor = _nudge(seconds / expected)
        if prompt_tokens > 0:
            self._prefill_s *= factor
        if new_tokens > 0:
            self._decode_s[_bucket(batch)] = self._per_token(batch) * factor

    def prefill_seconds(self, tokens: int) -> float:
        """Predicted seconds to read `tokens` prompt tokens."""
        return max(0, tokens) * self._prefill_s

    def decode_seconds(self, tokens: int, batch: int = 1) -> float:
        """Predicted seconds for one sequence to get `tokens` tokens in a batch of `batch`."""
        return max(0, tokens) * self._per_token(batch)

    def _per_token(self, batch: int) -> float:
        wanted = _bucket(batch)
        nearest = min(self._decode_s, key=lambda bucket: (abs(bucket - wanted), bucket))
        return self._decode_s[nearest]


def predicted_seconds(
    profile: SpeedProfile, prompt_tokens: int, new_tokens: int, batch: int = 1
) -> float:
    """Predicted seconds of one job that starts now: read the prompt, then write."""
    return profile.prefill_seconds(prompt_tokens) + profile.decode_seconds(new_tokens, batch)


def _bucket(batch: int) -> int:
    return max(1, batch).bit_length() - 1


def _is_sane(tokens: int, seconds: float) -> bool:
    return tokens > 0 and seconds > 0 and math.isfinite(seconds)


def _nudge(ratio: float) -> float:
    """The factor that moves an estimate towards a sample that is `ratio` times as large."""
    return float(min(max(ratio, 1 / _MAX_SURPRISE), _MAX_SURPRISE) ** _RATE)
