"""A request as the policy sees it: its question, what is predicted of it, and what stands against
several writers.

A sketch shows the edges the question alone. So a conversation with earlier turns, or with a system
message that says more than "you are a helpful assistant", is answered directly unless the route is
forced; the same holds for sampling options that a text of several writers cannot honour.
"""

from __future__ import annotations

import re

from picert.messages import ChatMessage, Request
from picert.pice.heads import Heads
from picert.pice.length import LengthPredictor, requested_points
from picert.pice.policy import PlanInput
from picert.pice.router import suitability

_NEUTRAL_SYSTEM = re.compile(
    r"(?:you are [\w ,]{1,40}, (?:created|made|trained|built) by [\w ]{1,40}\. )?"
    r"you are (?:an? )?(?:(?:very|helpful|friendly|honest|harmless|useful|polite|ai|and),? )*"
    r"assistant[.!]?"
)


def read_request(
    request: Request, prompt_tokens: int, lengths: LengthPredictor, heads: Heads | None = None
) -> PlanInput:
    """Everything `plan` wants to know of `request`; `heads` are of the cloud's own model."""
    last = request.messages[-1] if request.messages else None
    question = last.content if last is not None and last.role == "user" else ""
    return PlanInput(
        question=question,
        suitability=heads.suitability(question) if heads else suitability(question),
        length=lengths.predict(question),
        prompt_tokens=prompt_tokens,
        max_tokens=request.sampling.max_tokens,
        route=request.route,
        sketch_tokens=request.sketch_tokens,
        points=requested_points(question),
        obstacles=_obstacles(request),
        only_direct=_only_direct(request),
    )


def _only_direct(request: Request) -> str | None:
    """What of a request edges do not get to see, and a merged answer has not."""
    checks = (
        (request.prompt is not None, "a raw prompt is completed as it stands"),
        (request.num_choices > 1, "several answers are asked for"),
        (bool(request.tools), "tools are given"),
        (request.grammar is not None, "the form of the answer is prescribed"),
        (request.sampling.logprobs is not None, "log-probabilities are asked for"),
        (bool(request.opening), "the answer's turn has begun"),
        (not request.add_generation_prompt, "the last turn is to be continued"),
    )
    return next((reason for holds, reason in checks if holds), None)


def _obstacles(request: Request) -> tuple[str, ...]:
    """What of a request would be lost if several models wrote its answer from the question."""
    sampling = request.sampling
    system = [m for m in request.messages if m.role == "system"]
    checks = (
        (len(request.messages) > len(system) + 1, "the conversation has earlier turns"),
        (any(not _is_neutral(m) for m in system), "the system message asks for more than help"),
        (bool(sampling.stop or sampling.stop_token_ids), "stop strings or tokens are set"),
        (bool(sampling.logit_bias), "logit_bias is set"),
        (sampling.min_tokens > 0 or sampling.ignore_eos, "a minimum length is set"),
    )
    return tuple(reason for holds, reason in checks if holds)


def _is_neutral(message: ChatMessage) -> bool:
    text = " ".join(message.content.casefold().split())
    return not text or _NEUTRAL_SYSTEM.fullmatch(text) is not None
