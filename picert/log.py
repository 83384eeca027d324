"""The one logging set-up: the process's role and, where there is one, the request id on each line;
text or JSON.

Prompts, answers and keys are never logged. Control characters are stripped, so a peer's text cannot
forge a line.
"""

from __future__ import annotations

import json
import logging
import sys
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
        message = "".join(c if c.isprintable() else " " for c in message)
        fields = {
            "time": self.formatTime(record, self.datefmt),
            "level": record.levelname.lower(),
            "role": self.role,
            "request_id": getattr(record, "request_id", None),
            "message": message,
        }
        if self.as_json:
            known = {key: value for key, value in fields.items() if value is not None}
            return json.dumps(known, ensure_ascii=False)
        request = f" [{fields['request_id']}]" if fields["request_id"] else ""
        return f"{fields['time']} {fields['level']:<7} {self.role}{request} {message}"


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
