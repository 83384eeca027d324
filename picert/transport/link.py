"""The cloud-edge link: ServerLink (ROUTER, at the cloud) and PeerLink (DEALER, at an edge).

Both are started and closed by their owner, run their own tasks in between, and hand everything that
happened to the owner through one bounded iterator, `events()`. Registration, heartbeats and
liveness are the link's business; what a job is, and which are in flight, is not. The protocol is
told in docs/protocol.md.
"""

from picert.transport.peer_link import PeerLink
from picert.transport.server_link import ServerLink

__all__ = ["PeerLink", "ServerLink"]
