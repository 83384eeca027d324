"""Guard: stands before the application and decides who may reach which path. Pure ASGI.

Health is open to all, `/admin` to admin keys, everything else to any key. Without keys only names
of this machine are served, so that a web page whose own name was made to point here (DNS rebinding)
cannot ask. Keys are never logged.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from picert.cloud import sse
from picert.cloud.keys import Keys
from picert.errors import Forbidden, PicertError, RequestTimeout, Unauthorized
from picert.patience import within

OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/health/ready"})
BODY_TIMEOUT_S = 30.0  # from the head of a request to the last byte of its body


class Guard:
    """Wraps the application `app`. `is_local`: no other machine can connect."""

    def __init__(
        self, app: ASGIApp, keys: Keys, *, is_local: bool, body_timeout_s: float = BODY_TIMEOUT_S
    ) -> None:
        self._app = app
        self._keys = keys
        self._is_local = is_local
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            return
        try:
            scope.setdefault("state", {})["is_known"] = self._check(
                scope["path"], Headers(scope=scope)
            )
        except PicertError as error:
            headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
            response = JSONResponse(sse.error_body(error), error.status, headers)
            await response(scope, receive, send)
            return
        await self._app(scope, _TimelyBody(receive, self._body_timeout_s), send)

    def _check(self, path: str, headers: Headers) -> bool:
        """Whether it comes from someone known. Raises Unauthorized or Forbidden."""
        if not self._keys.are_set:
            self._check_without_keys(path, headers.get("host", ""))
            return self._is_local
        key = _bearer(headers.get("authorization", ""))
        is_known = key is not None and self._keys.is_user(key)
        if path in OPEN_PATHS:
            return is_known
        if not is_known:
            given = "no key was" if key is None else "an unknown key was"
            raise Unauthorized(f"{given} sent: send `Authorization: Bearer KEY`")
        if _is_admin(path) and not self._keys.is_admin(key or ""):
            raise Forbidden(f"{path[:100]} takes an admin key (--admin-api-key of picert-cloud)")
        return True

    def _check_without_keys(self, path: str, host: str) -> None:
        if self._is_local and not _names_this_machine(host):
            raise Forbidden(
                f"the request is for {host[:100]!r}, this cloud serves its own machine only: "
                "ask 127.0.0.1, or start it with --api-key"
            )
        if not self._is_local and _is_admin(path):
            raise Forbidden("administration is off: start picert-cloud with --admin-api-key")


class _TimelyBody:
    """Receives what a client sends; its body must be complete in time, its leaving may take."""

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._ends_at = asyncio.get_running_loop().time() + timeout_s
        self._is_complete = False

    async def __call__(self) -> Message:
        """The next message. Raises RequestTimeout for a body that drips."""
        if self._is_complete:
            return await self._receive()
        left_s = self._ends_at - asyncio.get_running_loop().time()
        try:
            message = await within(max(0.0, left_s), self._receive())
        except asyncio.TimeoutError:
            raise RequestTimeout(
                f"the body was not complete after {self._timeout_s:g} s: send it faster"
            ) from None
        self._is_complete = not message.get("more_body", False)
        return message


def _is_admin(path: str) -> bool:
    return path == "/admin" or path.startswith("/admin/")


def _bearer(header: str) -> str | None:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _names_this_machine(host: str) -> bool:
    """The Host header is a loopback name or address, whatever the port."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return name.lower() == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
