"""CloudWriter: the cloud model's own text for one draft, accounted for and timed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from picert.cloud.draft import Draft
from picert.engine.loop import EngineLoop
from picert.engine.sequence import Output, Terms
from picert.messages import ChatMessage
from picert.pice.profile import SpeedProfile
from picert.pice.prompts import Prompt


class CloudWriter:
    """Streams of the cloud's engine, with the draft's deadline; what they cost goes to the draft
    and the profile.
    """

    def __init__(
        self,
        loop: EngineLoop,
        clock: Callable[[], float] = time.monotonic,
        queue_timeout_s: float | None = None,
    ) -> None:
        self.model = loop.engine.identity.name
        self.tokenizer = loop.engine.tokenizer
        self.speed = SpeedProfile()
        self.slots = loop.engine.config.max_num_seqs
        self.num_running = 0
        self._left: dict[str, int] = {}  # tokens that each open text is expected to get yet
        self._loop = loop
        self._clock = clock
        self._queue_timeout_s = queue_timeout_s

    def count_prompt(self, messages: Sequence[ChatMessage]) -> int:
        """Tokens of a conversation as this model reads it.

        Raises InvalidRequest where its template refuses it.
        """
        return len(self.tokenizer.encode_chat(messages))

    async def write(self, draft: Draft, part: str, prompt: Prompt) -> AsyncGenerator[Output, None]:
        """Outputs of one text; `part` names it within its request.

        Closing the iterator aborts the sequence.
        """
        ids = self.tokenizer.encode_chat(prompt.messages, prefill=prompt.prefill)
        name = f"{draft.request.request_id}/{part}"
        stream = self._loop.stream(name, ids, prompt.sampling, terms=self._terms(draft))
        expected = min(prompt.sampling.max_tokens, draft.expected_tokens)
        began, last = self._clock(), None
        self.num_running += 1
        self._left[name] = expected
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    if last is None:
                        draft.queue_s += output.queue_s
                        self._observe_first(output, self._clock() - began)
                        began = self._clock()
                    last = output
                    self._left[name] = max(0, expected - output.num_completion_tokens)
                    yield output
        finally:
            self.num_running -= 1
            del self._left[name]
            if last is not None:
                draft.count_cloud(last)
                seconds, batch = self._clock() - began, self.num_running + 1
                self.speed.observe_decode(last.num_completion_tokens - 1, seconds, batch)

    def _terms(self, draft: Draft) -> Terms:
        """A question waits its turn; what goes on with an answer goes before it."""
        begun = draft.has_begun
        return Terms(
            deadline_s=draft.remaining_s,
            queue_timeout_s=None if begun else self._queue_timeout_s,
            priority=draft.request.priority - begun,
            is_owed=begun,
        )

    @property
    def backlog_s(self) -> float:
        """Seconds of a full engine that open texts are expected to take yet."""
        each = self.speed.decode_seconds(1, self.slots) / self.slots
        return each * sum(self._left.values())

    @property
    def wait_s(self) -> float:
        """Until a text that is begun now would get its first step: the time in which as many open
        ones end as there are too many."""
        too_many = self.num_running + 1 - self.slots
        return max(0, too_many) * self.backlog_s / max(1, self.num_running)

    def _observe_first(self, output: Output, seconds: float) -> None:
        num_read = output.num_prompt_tokens - output.num_cached_tokens
        self.speed.observe_prefill(num_read, seconds - output.queue_s)
