"""picert: progressive LLM inference over cloud and edge.

The names below are loaded when they are first used, so that `import picert` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from picert.config import EngineConfig
    from picert.engine.engine import Engine
    from picert.engine.llm import LLM
    from picert.messages import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "Engine", "EngineConfig", "SamplingParams", "__version__"]

_HOMES = {
    "LLM": "picert.engine.llm",
    "Engine": "picert.engine.engine",
    "EngineConfig": "picert.config",
    "SamplingParams": "picert.messages",
}


def __getattr__(name: str) -> object:
    """A public name, imported from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'picert' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
