"""`/admin`: see the edges, drain this cloud or one of them. Who may is the guard's business."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from picert.cloud.edges import EdgePool
from picert.cloud.service import CloudService
from picert.transport.events import Peer
from picert.transport.link import ServerLink


def add_admin(app: FastAPI, service: CloudService, pool: EdgePool, link: ServerLink) -> None:
    """Let `app` be administered."""

    @app.get("/admin/edges")
    async def list_edges() -> dict[str, Any]:
        """Every registered edge: its state, its models, what it holds."""
        peers = link.peers
        return {
            "edges": [{**edge, **_beat(peers.get(edge["name"]))} for edge in pool.roster.report()]
        }

    @app.post("/admin/drain")
    async def drain() -> dict[str, Any]:
        """Take nothing new (503 `draining`, not ready); what is in flight goes on."""
        service.admission.drain()
        return _state(service)

    @app.delete("/admin/drain")
    async def reopen() -> dict[str, Any]:
        """Take questions again."""
        service.admission.reopen()
        return _state(service)

    @app.post("/admin/edges/{name}/drain")
    async def drain_edge(name: str) -> dict[str, Any]:
        """Give an edge nothing new until it registers again; its jobs go on."""
        pool.roster.drain(name)
        return {"edge": name, "draining": True}


def _state(service: CloudService) -> dict[str, Any]:
    admission = service.admission
    return {"draining": admission.is_draining, "in_flight": admission.num_inside}


def _beat(peer: Peer | None) -> dict[str, Any]:
    """What the edge's latest heartbeat said."""
    if peer is None or peer.load is None:
        return {"rtt_ms": None, "running": None, "waiting": None, "kv_usage": None}
    load = peer.load
    return {
        "rtt_ms": None if load.rtt_s is None else round(1000 * load.rtt_s, 3),
        "running": load.num_running,
        "waiting": load.num_waiting,
        "kv_usage": round(load.kv_usage, 4),
    }
