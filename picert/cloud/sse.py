"""Server-sent events: the bytes of one, ready to send.

An event is encoded whole, so a character is never split between two of them.
"""

from __future__ import annotations

import json
from typing import Any

from picert.errors import PicertError

KEEP_ALIVE = b": keep-alive\n\n"
END = b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    """One `data:` line and the blank line after it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode("utf-8", "replace")


def error_body(error: PicertError) -> dict[str, Any]:
    """An error as OpenAI writes it, all four keys."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
    }
