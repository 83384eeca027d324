"""The HTTP side's way in: what it listens on, over what, and who may use it; decided from the
config before a model is loaded.

Other machines are served with a key only, unless the operator says otherwise in so many words.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from picert.cloud.guard import Guard
from picert.cloud.keys import Keys, read_keys
from picert.cloud.server import Tls, bind, bind_unix, is_loopback, tls_of
from picert.config import CloudConfig
from picert.errors import ConfigError

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+|null")
_OUR_HEADERS = (
    *("x-request-id", "x-picert-route", "x-picert-edges", "x-picert-attempts"),
    *("x-picert-queue-ms", "retry-after"),
)


@dataclass(frozen=True, slots=True)
class Door:
    """A bound socket and the rules of who may come in."""

    listener: socket.socket
    keys: Keys
    tls: Tls | None
    is_local: bool  # no other machine can connect
    origins: tuple[str, ...]
    host: str

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """`app` behind the guard; browsers are told which pages may ask."""
        guard: ASGIApp = Guard(app, self.keys, is_local=self.is_local)
        if not self.origins:
            return guard
        return CORSMiddleware(
            guard,
            allow_origins=self.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("authorization", "content-type", "x-request-id"),
            expose_headers=_OUR_HEADERS,
        )

    def url(self, port: int) -> str:
        """Where clients find it."""
        if self.listener.family == socket.AF_UNIX:
            return f"http+unix://{self.host}"
        scheme = "http" if self.tls is None else "https"
        host = f"[{self.host}]" if ":" in self.host.strip("[]") else self.host
        return f"{scheme}://{host}:{port}"


def open_door(config: CloudConfig) -> Door:
    """Check everything and bind. Raises ConfigError."""
    access = config.access
    keys = read_keys(access)
    tls = tls_of(access.ssl_keyfile, access.ssl_certfile)
    origins = _origins(access.allowed_origins)
    is_local = access.uds is not None or is_loopback(config.host)
    if not (is_local or keys.are_set or access.insecure):
        raise ConfigError(
            f"host {config.host} can be reached from other machines and there is no API key: give "
            "--api-key-file (or --api-key), a loopback host, or --insecure to serve anybody",
            param="host",
        )
    listener = bind(config.host, config.port) if access.uds is None else bind_unix(access.uds)
    return Door(listener, keys, tls, is_local, origins, access.uds or config.host)


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"--allowed-origins has {origin!r}: give https://HOST[:PORT], comma-separated",
                param="allowed_origins",
            )
    return origins
