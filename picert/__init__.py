"""picert: progressive LLM inference over cloud and edge.

The public names are loaded when they are first used: a client does not need torch, and `--help`
does not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picert.client import Answer, Client, ProgressiveClient
    from picert.config import EngineConfig
    from picert.engine.engine import Engine
    from picert.engine.llm import LLM
    from picert.messages import ChatMessage, SamplingParams

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Answer",
    "ChatMessage",
    "Client",
    "Engine",
    "EngineConfig",
    "ProgressiveClient",
    "SamplingParams",
    "__version__",
]

_HOMES = MappingProxyType(
    {
        "Answer": "picert.client",
        "ChatMessage": "picert.messages",
        "Client": "picert.client",
        "Engine": "picert.engine.engine",
        "EngineConfig": "picert.config",
        "LLM": "picert.engine.llm",
        "ProgressiveClient": "picert.client",
        "SamplingParams": "picert.messages",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'picert' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
