"""CloudWriter: the cloud model's own text for one draft, accounted for and timed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from picert.cloud.draft import Draft
from picert.engine.loop import EngineLoop
from picert.engine.sequence import Output
from picert.messages import ChatMessage
from picert.pice.profile import SpeedProfile
from picert.pice.prompts import Prompt


class CloudWriter:
    """Streams of the cloud's engine, with the draft's deadline; what they cost goes to the draft
    and the profile.
    """

    def __init__(self, loop: EngineLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self.model = loop.engine.identity.name
        self.tokenizer = loop.engine.tokenizer
        self.speed = SpeedProfile()
        self.num_running = 0
        self._loop = loop
        self._clock = clock

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
        stream = self._loop.stream(
            f"{draft.request.request_id}/{part}",
            *(ids, prompt.sampling),
            deadline_s=draft.remaining_s,
        )
        began, last = self._clock(), None
        self.num_running += 1
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    if last is None:
                        draft.queue_s += output.queue_s
                    last = output
                    yield output
        finally:
            self.num_running -= 1
            if last is not None:
                draft.count_cloud(last)
                self._observe(last, self._clock() - began)

    def _observe(self, output: Output, seconds: float) -> None:
        prompt_tokens = output.num_prompt_tokens - output.num_cached_tokens
        batch = self.num_running + 1
        self.speed.observe(prompt_tokens, output.num_completion_tokens, seconds, batch)
