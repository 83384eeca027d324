"""The model folder's own advice on sampling: what `generation_config.json` says, else neutral."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from picert.errors import ModelError
from picert.messages import SamplingParams

_FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def sampling_defaults(model: Path) -> SamplingParams:
    """Defaults for requests that leave a field out; neutral where there is no such file.

    Raises ModelError for a file that is not a JSON object or a value out of range.
    """
    path = model / "generation_config.json"
    if not path.is_file():
        return SamplingParams()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("it is not an object")
        advice = {name: raw[name] for name in _FIELDS if raw.get(name) is not None}
        return msgspec.convert(advice, SamplingParams)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {error}: mend or remove it") from None
