"""An engine driven step by step to its end, and what came of it."""

from collections import defaultdict
from collections.abc import Iterable

from picert.engine.engine import Engine
from picert.engine.sequence import Output
from picert.messages import SamplingParams


def greedy(max_tokens: int, **params: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **params)  # type: ignore[arg-type]


def finish(engine: Engine) -> dict[str, list[Output]]:
    """Step to the end, checking every table after each step."""
    outputs: dict[str, list[Output]] = defaultdict(list)
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.self_check()
    return outputs


def tokens(outputs: Iterable[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def text(outputs: Iterable[Output]) -> str:
    return "".join(output.text for output in outputs)
