"""Every error that picert raises on purpose: each has an HTTP status, an OpenAI error type and a
wire code.

A message says what was given, what was wanted and what to do, in one line. Nothing here imports
anything else.
"""

from __future__ import annotations

from typing import ClassVar


class PicertError(Exception):
    """Base of all of them; raised as itself only for a fault of our own (HTTP 500)."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(PicertError, ValueError):
    """The caller's input cannot be served as given."""

    status = 400
    kind = "invalid_request_error"


class InvalidJson(InvalidRequest):
    """The body is not JSON."""

    code = "invalid_json"


class ContextLengthExceeded(InvalidRequest):
    """Prompt, or prompt and budget, do not fit the context."""

    code = "context_length_exceeded"


class ConfigError(InvalidRequest):
    """A flag, environment variable or config key is unknown, malformed or contradictory."""

    code = "invalid_config"


class ModelError(InvalidRequest):
    """A model's files are missing, damaged or of a kind that is not supported."""

    code = "invalid_model"


class Unauthorized(PicertError):
    """No key, or one that opens nothing here."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class Forbidden(PicertError):
    """A key that is good, for other paths."""

    status = 403
    kind = "permission_error"


class ModelNotFound(PicertError):
    """No model of that name is served or known."""

    status = 404
    kind = "not_found_error"
    code = "model_not_found"


class EdgeNotFound(PicertError):
    """No edge of that name is connected."""

    status = 404
    kind = "not_found_error"
    code = "edge_not_found"


class DeadlineExceeded(PicertError):
    """The request's time is over."""

    status = 408
    kind = "timeout_error"
    code = "deadline_exceeded"


class QueueTimeout(PicertError):
    """The request waited longer for its turn than it may."""

    status = 408
    kind = "timeout_error"
    code = "queue_timeout"


class RequestTimeout(PicertError):
    """The request itself did not arrive in time."""

    status = 408
    kind = "timeout_error"


class QueueFull(PicertError):
    """A bounded queue is full; the caller may try again later."""

    status = 429
    kind = "rate_limit_error"
    code = "queue_full"


class Unavailable(PicertError):
    """The service is loading, draining or has lost its engine."""

    status = 503
    kind = "unavailable_error"
    code = "no_engine"


class Draining(Unavailable):
    """The service takes nothing new because it is about to stop."""

    code = "draining"


class ProtocolError(PicertError):
    """A peer sent frames that are not ours: unknown type, other version, oversize, or a malformed
    body.
    """

    status = 502
    code = "protocol_error"


class EdgeLost(PicertError):
    """The edge that held a job is gone or gave it back."""

    status = 502
    code = "edge_lost"


class Cancelled(PicertError):
    """The request was cancelled by its owner."""

    status = 499
    code = "cancelled"


_BY_CODE: dict[str, type[PicertError]] = {
    cls.code: cls
    for cls in (
        *(InvalidJson, ContextLengthExceeded, ConfigError, ModelError, ModelNotFound, Unauthorized),
        *(EdgeNotFound, QueueTimeout),
        *(DeadlineExceeded, QueueFull, Unavailable, Draining, ProtocolError, EdgeLost, Cancelled),
    )
    if cls.code is not None
}


def error_from_code(code: str, message: str) -> PicertError:
    """The error that a peer's `Failure` stands for; an unknown code becomes a plain PicertError."""
    return _BY_CODE.get(code, PicertError)(message)
