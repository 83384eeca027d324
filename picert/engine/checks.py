"""What a request may hold, told before it is queued."""

from __future__ import annotations

from collections.abc import Sequence

from picert.errors import ContextLengthExceeded, InvalidRequest


def check_prompt(prompt_ids: list[int], vocab_size: int, max_model_len: int) -> None:
    """Raises InvalidRequest for no token or an unknown one, ContextLengthExceeded for too many."""
    if not prompt_ids:
        raise InvalidRequest("the prompt has no tokens, at least 1 is needed", param="prompt")
    check_token_ids("prompt", prompt_ids, vocab_size)
    if len(prompt_ids) >= max_model_len:
        raise ContextLengthExceeded(
            f"the prompt has {len(prompt_ids):,} tokens, the context holds {max_model_len:,} with "
            "the answer: shorten the prompt or raise max_model_len",
            param="prompt",
        )


def check_token_ids(name: str, ids: Sequence[int] | dict[int, float], vocab_size: int) -> None:
    """Raises InvalidRequest for a token that the model does not know."""
    for token_id in (min(ids), max(ids)) if ids else ():
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"{name} holds token {token_id}, the model knows 0 to {vocab_size - 1}",
                param=name,
            )
