"""Waiting: the bounds of an engine's queue, in requests and in prompt tokens."""

from __future__ import annotations

from dataclasses import dataclass

from picert.errors import QueueFull


@dataclass(slots=True)
class Waiting:
    """Counts the prompt tokens of requests that had no place in a step yet."""

    max_requests: int  # waiting or running
    max_tokens: int  # of prompts that wait; a single prompt may be longer
    num_tokens: int = 0

    def check(self, num_requests: int, prompt_len: int) -> None:
        """Raises QueueFull if one more request, with a prompt of `prompt_len`, is too many."""
        if num_requests >= self.max_requests:
            raise QueueFull(
                f"{num_requests} requests are running or queued, the limit is "
                f"{self.max_requests}: try again later"
            )
        if self.num_tokens and self.num_tokens + prompt_len > self.max_tokens:
            raise QueueFull(
                f"prompts of {self.num_tokens:,} tokens are queued, with this one's "
                f"{prompt_len:,} they would pass the limit of {self.max_tokens:,}: try again later"
            )
