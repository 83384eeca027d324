"""Server-sent events of one answer: each method gives the bytes of one event, ready to send.

An event is encoded whole, so a character is never split between two of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from picert.cloud.openai_response import report, usage
from picert.errors import PicertError
from picert.messages import Done, Progress, TextDelta

KEEP_ALIVE = b": keep-alive\n\n"
_END = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of one streamed answer; `id`, `created`, `model` are the same in all."""

    id: str
    created: int
    model: str
    include_usage: bool = False
    explain: bool = False

    def role(self) -> bytes:
        """The first chunk: whose turn it is."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, delta: TextDelta) -> bytes:
        """More of the answer."""
        return self._chunk({"content": delta.text})

    def progress(self, progress: Progress) -> bytes:
        """What goes on behind the answer: an empty delta and a `picert` object."""
        told: dict[str, Any] = {
            "stage": progress.stage,
            "done": progress.done,
            "total": progress.total,
        }
        optional = {"index": progress.index, "edge": progress.edge, "text": progress.text or None}
        told.update({key: value for key, value in optional.items() if value is not None})
        return self._chunk({}, picert=told)

    def end(self, done: Done) -> bytes:
        """The last chunk with a choice (no content, the reason, our report), the usage if asked
        for, and the end mark.
        """
        told = report(done, self.explain).model_dump()
        last = self._chunk({}, finish_reason=done.finish_reason, picert=told)
        if self.include_usage:
            last += event({**self._head(), "choices": [], "usage": usage(done).model_dump()})
        return last + _END

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        empty = {"usage": None} if self.include_usage else {}
        return event({**self._head(), "choices": [choice], **empty, **more})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }


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


def event(data: dict[str, Any]) -> bytes:
    """One `data:` line and the blank line after it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode("utf-8", "replace")
