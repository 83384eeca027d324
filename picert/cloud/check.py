"""What the cloud's own model thinks of the candidates of one segment: it reads each as if it had
written it, after everything that is written for others.

An opinion is worth only a moment. Whatever keeps the cloud from it costs the opinion alone: the
candidates are then chosen among without.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from picert.cloud.draft import Draft
from picert.cloud.writer import CloudWriter
from picert.config import PolicyConfig
from picert.errors import PicertError
from picert.messages import Expansion
from picert.pice.ensemble import NO_OPINIONS
from picert.pice.prompts import Prompt


class CloudCheck:
    """Asks for opinions, where their weight is not 0."""

    def __init__(self, writer: CloudWriter, policy: PolicyConfig) -> None:
        self._writer = writer
        self._within_s = policy.cloud_check_s
        self.is_on = policy.w_cloud_check > 0

    @property
    def patience_s(self) -> float:
        """That a segment waits at the front of the answer for something to choose from."""
        return self._within_s if self.is_on else 0.0

    async def opinions(
        self, draft: Draft, index: int, prompt: Prompt, candidates: Sequence[Expansion]
    ) -> Mapping[int, float]:
        """Mean log-probabilities of the candidates' texts as answers to `prompt`, by attempt; empty
        where not all came in time: some say nothing of the others."""
        found = await asyncio.gather(
            *(
                self._opinion(draft, f"check-{index}-{candidate.attempt}", prompt, candidate.text)
                for candidate in candidates
            )
        )
        if not all(map(math.isfinite, found)):
            return NO_OPINIONS
        return {c.attempt: opinion for c, opinion in zip(candidates, found, strict=True)}

    async def _opinion(self, draft: Draft, part: str, prompt: Prompt, text: str) -> float:
        """NaN where there is none."""
        try:
            return await self._writer.score(draft, part, prompt, text, self._within_s)
        except PicertError:
            return math.nan
