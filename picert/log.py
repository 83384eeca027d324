"""The one logging set-up: the process's role and, where there is one, the request id on each line;
text or JSON.

Prompts, answers and keys are never logged. Control characters are stripped, so a peer's text cannot
forge a line.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Literal


class _Formatter(logging.Formatter):
    def __init__(self, role: str, style: Literal["text", "json"]) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self.role = role
        self.as_json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """One line for one record, whatever its text holds."""
        message = record.getMessage()
        if record.exc_info:
            message += " | " + self.formatException(record.exc_info)
        request_id = getattr(record, "request_id", None)
        fields = {
            "time": self.formatTime(record, self.datefmt),
            "level": record.levelname.lower(),
            "role": self.role,
            "request_id": None if request_id is None else _printable(str(request_id)),
            "message": _printable(message),
        }
        if self.as_json:
            fields["time"] = _utc(record.created)
            known = {key: value for key, value in fields.items() if value is not None}
            return json.dumps(known, ensure_ascii=False)
        request = f" [{fields['request_id']}]" if fields["request_id"] else ""
        return f"{fields['time']} {fields['level']:<7} {self.role}{request} {fields['message']}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _utc(seconds: float) -> str:
    """ISO 8601 with milliseconds, as log collectors want it."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def configure(role: str, level: str = "info", style: Literal["text", "json"] = "text") -> None:
    """Send picert's log to stderr; called once, by a process's top."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(role, style))
    logger = logging.getLogger("picert")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: `get_logger(__name__)`."""
    return logging.getLogger(name)
