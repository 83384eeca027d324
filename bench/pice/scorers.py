"""Judge models: picert's own engine in this process, or any OpenAI-compatible endpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from pice.judge import Labels
from picert.engine.llm import LLM, Completion
from picert.messages import ChatMessage, SamplingParams

_TOP = 20  # tokens whose probability is known
_ASK = SamplingParams(temperature=0.0, max_tokens=1, logprobs=_TOP)
_TIMEOUT_S = 60.0
KEY_VARIABLE = "PICERT_JUDGE_KEY"


class LocalScorer:
    """A model of picert's; closes with the LLM that it is given."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def odds(
        self, chats: Sequence[Sequence[ChatMessage]], labels: Labels
    ) -> list[tuple[float, float] | None]:
        """See `Scorer`. All chats are one batch and share what they begin with."""
        return [_odds(self._top(reply), labels) for reply in self._llm.chat(chats, _ASK)]

    def _top(self, reply: Completion) -> list[tuple[str, float]]:
        decode = self._llm.engine.tokenizer.decode
        return [(decode([token]), p) for token, p in (reply.logprobs or ())[0].top]


class HttpScorer:
    """An endpoint that gives log-probabilities; its key, if any, comes from the environment."""

    def __init__(self, url: str, model: str, transport: httpx.BaseTransport | None = None) -> None:
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._model = model
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=_TIMEOUT_S, transport=transport
        )

    def odds(
        self, chats: Sequence[Sequence[ChatMessage]], labels: Labels
    ) -> list[tuple[float, float] | None]:
        """See `Scorer`. Raises ValueError for a reply without log-probabilities."""
        return [_odds(self._ask(chat), labels) for chat in chats]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, chat: Sequence[ChatMessage]) -> list[tuple[str, float]]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": m.role, "content": m.content} for m in chat],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
        try:
            reply = self._http.post("chat/completions", json=body).raise_for_status().json()
            top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            return [(entry["token"], entry["logprob"]) for entry in top]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise ValueError(
                f"the judge at {self._http.base_url} gave no log-probabilities ({error!r}): choose "
                "an endpoint that supports logprobs, or leave --judge-url out"
            ) from None


def _odds(top: Iterable[tuple[str, float]], labels: Labels) -> tuple[float, float] | None:
    """What the likeliest tokens give to either label, whatever its case and white space."""
    sums = dict.fromkeys(labels, 0.0)
    for token, logprob in top:
        word = token.strip().casefold()
        if word in sums:
            sums[word] += math.exp(logprob)
    first, second = sums[labels[0]], sums[labels[1]]
    return (first, second) if first + second > 0 else None
