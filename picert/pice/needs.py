"""What a job will need at an edge: tokens to read, to write and to keep, learned from those before.

Rough on purpose: the cloud has no tokenizer of the edges' models, and a choice between edges needs
proportions, not digits.
"""

from __future__ import annotations

from dataclasses import dataclass

from picert.messages import AnswerJob, ExpandJob, Expansion

EdgeJob = ExpandJob | AnswerJob

_RATE = 0.1  # weight of a new sample in the exponential means
_CHARS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class JobNeeds:
    """Tokens that one job is expected to take."""

    prompt_tokens: int  # to read where nothing of its request was read before
    tail_tokens: int  # of those, what it does not share with other jobs of its request
    tokens: int  # to write
    kv_tokens: int  # to keep while it runs


class NeedsEstimator:
    """Exponential means over real expansions; the start values are those of the shipped prompts."""

    def __init__(self) -> None:
        self._rules = 400.0  # tokens of a prompt beyond the question and the outline
        self._tail = 48.0  # tokens of a prompt that the prefix cache does not hold
        self._share = 0.6  # of its budget that an expansion writes
        self.expansion_tokens = 40.0  # that an expansion writes, whatever its budget

    def of(self, job: EdgeJob) -> JobNeeds:
        """What `job` will need."""
        text = _text_tokens(job)
        if isinstance(job, ExpandJob):
            prompt, limit = round(text + self._rules), job.max_tokens
            tail, tokens = min(prompt, round(self._tail)), round(self._share * limit)
        else:
            prompt, limit = round(text), job.sampling.max_tokens
            tail, tokens = prompt, round(self._share * limit)
        return JobNeeds(prompt, tail, max(1, tokens), prompt + limit)

    def observe(self, job: EdgeJob, expansion: Expansion) -> None:
        """`job` gave `expansion`. What cannot be true is left out."""
        read, cached = expansion.prompt_tokens, expansion.cached_tokens
        if not isinstance(job, ExpandJob) or not 0 <= cached < read:
            return
        written = expansion.completion_tokens
        self._rules += _RATE * (max(0.0, read - _text_tokens(job)) - self._rules)
        if cached:
            self._tail += _RATE * (read - cached - self._tail)
        if 0 < written <= job.max_tokens:
            self.expansion_tokens += _RATE * (written - self.expansion_tokens)
            self._share += _RATE * (written / job.max_tokens - self._share)


def _text_tokens(job: EdgeJob) -> float:
    """Of what differs from request to request."""
    if isinstance(job, ExpandJob):
        chars = len(job.question) + len(job.written) + sum(map(len, job.outline))
    else:
        chars = len(job.written) + sum(len(message.content) for message in job.messages)
    return chars / _CHARS_PER_TOKEN
