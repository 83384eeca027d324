"""Who is registered at the cloud: a table by name and by route, and each edge's load. No socket."""

from __future__ import annotations

from dataclasses import dataclass

from picert.messages import Heartbeat, Hello
from picert.transport.events import Peer
from picert.transport.liveness import Liveness

MAX_PEERS = 256


@dataclass(slots=True)
class Entry:
    """One registration: an edge, and the route that leads to it."""

    hello: Hello
    route: bytes
    key: bytes = b""  # that its connection was let in with; empty without encryption
    is_draining: bool = False
    load: Heartbeat | None = None

    @property
    def name(self) -> str:
        """The edge's name."""
        return self.hello.name

    def is_same_process(self, hello: Hello) -> bool:
        """`hello` comes from the same process; empty instances are all different."""
        return bool(hello.instance) and hello.instance == self.hello.instance


class Registry:
    """The registered edges, at most MAX_PEERS; names and routes are unique.

    `liveness` watches exactly these names.
    """

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness
        self._by_name: dict[str, Entry] = {}
        self._by_route: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def entries(self) -> list[Entry]:
        """All registrations, in order of joining."""
        return list(self._by_name.values())

    @property
    def peers(self) -> dict[str, Peer]:
        """A snapshot for the link's owner."""
        return {
            name: Peer(name, entry.hello, self._liveness.state(name), entry.is_draining, entry.load)
            for name, entry in self._by_name.items()
        }

    def of_name(self, name: str) -> Entry | None:
        """The registration of a name."""
        return self._by_name.get(name)

    def of_route(self, route: bytes) -> Entry | None:
        """The registration that a message from `route` belongs to."""
        return self._by_route.get(route)

    def refusal(self, route: bytes, hello: Hello) -> tuple[str, str] | None:
        """Code and message if `hello` cannot be taken; living namesakes are judged elsewhere."""
        entry = self._by_route.get(route)
        if entry is not None and _identity(entry.hello) != _identity(hello):
            return (
                "protocol_error",
                f"this connection is registered as {entry.name}: open another one",
            )
        if hello.name not in self._by_name and len(self) >= MAX_PEERS:
            return "queue_full", f"this cloud has {MAX_PEERS} edges and takes no more"
        return None

    def add(self, route: bytes, hello: Hello, key: bytes = b"") -> None:
        """Register an edge whose name and route are both free."""
        entry = Entry(hello, route, key)
        assert hello.name not in self._by_name
        assert route not in self._by_route
        self._by_name[hello.name] = self._by_route[route] = entry
        self._liveness.add(hello.name)

    def replace(self, entry: Entry, hello: Hello) -> None:
        """The same edge on the same route, as a new registration."""
        if self.remove(entry):
            self.add(entry.route, hello, entry.key)

    def remove(self, entry: Entry) -> bool:
        """Forget a registration; False if it was already gone (its name may be registered anew)."""
        if self._by_name.get(entry.name) is not entry:
            return False
        del self._by_name[entry.name]
        del self._by_route[entry.route]
        self._liveness.remove(entry.name)
        return True


def _identity(hello: Hello) -> tuple[str, str]:
    return hello.name, hello.instance
