"""Roster: the registered edges: whether each may be given jobs, which model each runs, and what all
of them together look like to the policy.

It owns one table, an entry per registered edge from `join` to `leave`, and tells the dispatcher of
every change. No job makes it walk over all edges: one to which something happened is looked at
then, all of them once in a while, those that could switch models a few at a time.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from picert.cloud.assignment import Clock
from picert.cloud.seat import EdgeLink, EdgeView, Seat
from picert.config import PolicyConfig
from picert.errors import EdgeNotFound
from picert.log import get_logger
from picert.messages import Expansion
from picert.pice.dispatch import Dispatcher, Pace
from picert.pice.objective import MAX_EDGES, EdgeState
from picert.pice.policy import Load
from picert.pice.profile import SpeedProfile
from picert.pice.switching import ModelSwitch

logger = get_logger(__name__)
_MAX_GONE = 256  # names remembered, for whoever watches for edges that are missing
_FRESH_S = 1e-4  # times the number of edges: for so long a look at all of them counts
_LOAD_FACTOR, _LOAD_MARGIN_S = 5.0, 150.0  # a load that takes longer than so is given up
_MAX_SWITCHES = 8  # edges whose model is thought about at a time


class Roster:
    """The edges of one pool."""

    def __init__(
        self,
        link: EdgeLink,
        dispatcher: Dispatcher[Any],
        policy: PolicyConfig,
        clock: Clock,
    ) -> None:
        self._link = link
        self._dispatcher = dispatcher
        self._policy = policy
        self._clock = clock
        self.switches: Counter[str] = Counter()  # of edges' models, by direction
        self._seats: dict[str, Seat] = {}
        self._untried: dict[str, None] = {}  # those with a model whose speed is not known
        self._switching: deque[str] = deque()  # those that hold several models, the next one first
        self._gone: dict[str, str | None] = {}  # names that left, latest last; what they load
        self._looked_at: float | None = None  # when all were; None: something has changed
        self._num_available = 0
        self._context: int | None = None  # smallest of the available edges', in tokens
        self._slowest: SpeedProfile | None = None  # None: to be found anew

    def __len__(self) -> int:
        return len(self._seats)

    def seat(self, name: str) -> Seat | None:
        """An edge's account; None once it has left."""
        return self._seats.get(name)

    def seats(self) -> list[tuple[str, Seat]]:
        """All accounts by name."""
        return list(self._seats.items())

    # --- coming and going ---

    def join(self, name: str, seat: Seat) -> None:
        """An edge may be given jobs."""
        asked = self._gone.pop(name, None)
        if asked is not None and seat.holds(asked):
            seat.model = asked
        seat.hope_for(*self._seats.values())
        self._seats[name] = seat
        self._dispatcher.add_edge(name, seat.slots, seat.kv_tokens, self._pace(seat))
        if not seat.is_tried:
            self._untried[name] = None
        if len(seat.infos) > 1 and self._policy.uses("switching"):
            self._begin_switching(seat, None if asked is None else self._clock())
            self._switching.append(name)
        self._count()
        self.look_at(name)

    def leave(self, name: str) -> Seat:
        """An edge is gone."""
        seat = self._seats.pop(name)
        self._dispatcher.remove_edge(name)
        self._untried.pop(name, None)
        if name in self._switching:
            self._switching.remove(name)
        self._gone[name] = seat.loading
        if len(self._gone) > _MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._count()
        self._looked_at = None
        return seat

    def drain(self, name: str) -> None:
        """Give an edge nothing new until it registers again; its jobs go on.

        Raises EdgeNotFound.
        """
        seat = self._seats.get(name)
        if seat is None:
            raise EdgeNotFound(f"edge {name[:64]!r} is not connected: GET /admin/edges lists them")
        seat.is_draining = True
        self._looked_at = None

    # --- who may be given jobs ---

    def look(self) -> None:
        """Note which edges may be given jobs; what was seen a moment ago still counts."""
        now, fresh_s = self._clock(), _FRESH_S * len(self._seats)
        if self._looked_at is not None and 0 <= now - self._looked_at < fresh_s:
            return
        self._looked_at, self._slowest = now, None
        for name, seat in self._seats.items():
            self._note(name, seat)

    def look_at(self, name: str) -> None:
        """Something happened to this edge."""
        seat = self._seats.get(name)
        if seat is not None:
            self._note(name, seat)

    def _note(self, name: str, seat: Seat) -> None:
        is_available = self._is_available(name, seat)
        if is_available != seat.was_available:
            seat.was_available = is_available
            self._dispatcher.set_available(name, is_available)
            self._count()

    def _is_available(self, name: str, seat: Seat) -> bool:
        """It may be given a job now."""
        is_alive = self._link.state(name) == "alive"
        return is_alive and not seat.is_draining and seat.breaker.allows()

    def _count(self) -> None:
        """The set of available edges has changed."""
        ready = [seat for seat in self._seats.values() if seat.was_available]
        contexts = (model.max_model_len for seat in ready for model in seat.hello.models)
        self._num_available, self._context = len(ready), min(contexts, default=None)
        self._slowest = None

    # --- which model each runs, and how fast ---

    def switch_models(self) -> list[tuple[str, str]]:
        """Let edges with several models run what the load asks for: a few at a time, in turn.
        Returns those that are to load a spare one for it, with its name."""
        to_load = []
        for _ in range(min(len(self._switching), _MAX_SWITCHES)):
            name = self._switching[0]
            self._switching.rotate(-1)
            model = self._switch_model(name, self._seats[name])
            if model is not None:
                to_load.append((name, model))
        return to_load

    def _switch_model(self, name: str, seat: Seat) -> str | None:
        """The spare model that it shall load, if that is what it comes to."""
        assert seat.switch is not None
        now, link_s = self._clock(), seat.link_s(self._link)
        if seat.is_draining or now < seat.loading_until:
            return None
        if seat.loading is not None:
            self._give_up_loading(name, seat)
        if not seat.switch.may_switch(now):
            return None
        paces = {model: seat.pace_with(model, link_s) for model in seat.speeds}
        done_s = {
            model: seat.load_s(model) + self._dispatcher.done_s(name, pace, now)
            for model, pace in paces.items()
        }
        switch = seat.switch.decide(done_s, now)
        if switch is None:
            return None
        self.switches[switch.direction] += 1
        if not seat.holds(switch.model):
            seat.loading = switch.model
            seat.loading_until = now + _LOAD_FACTOR * seat.load_s(switch.model) + _LOAD_MARGIN_S
            logger.info("edge %s shall load %s: %s", name, switch.model, switch.reason)
            return switch.model
        seat.model = switch.model
        self._dispatcher.set_pace(name, paces[switch.model])
        logger.info("edge %s runs %s now: %s", name, switch.model, switch.reason)
        return None

    def _give_up_loading(self, name: str, seat: Seat) -> None:
        logger.warning("edge %s said nothing of %s, which it was to load", name, seat.loading)
        seat.loading = None
        self._begin_switching(seat, self._clock())

    def _begin_switching(self, seat: Seat, since: float | None) -> None:
        policy = self._policy
        seat.switch = ModelSwitch(
            *(seat.by_size, policy.switch_slack_s, policy.switch_dwell_s), *(seat.model, since)
        )

    @property
    def is_loading(self) -> bool:
        """An edge that was asked to load a model will take jobs again."""
        now = self._clock()
        return any(
            now < seat.loading_until for name in self._switching if (seat := self._seats[name])
        )

    def learn(self, name: str, expansion: Expansion, model: str) -> None:
        """An edge wrote a text: it, and those that are only hoped to be like it, may be faster or
        slower than was thought."""
        seat = self._seats[name]
        seat.observe(expansion, model, self._dispatcher.num_in_flight(name))
        self._dispatcher.set_pace(name, self._pace(seat))
        for other_name in list(self._untried):
            other = self._seats[other_name]
            if other.is_tried:
                del self._untried[other_name]
            elif other is not seat and other.hope_for(seat):
                self._dispatcher.set_pace(other_name, self._pace(other))

    def slowest(self) -> SpeedProfile:
        """The speed to plan deadlines by: the slowest edge's, or the prior without edges."""
        if self._slowest is None:
            speeds = [seat.speed for seat in self._seats.values()]
            self._slowest = max(speeds, key=lambda s: s.decode_seconds(1), default=SpeedProfile())
        return self._slowest

    def _pace(self, seat: Seat) -> Pace:
        return seat.pace(seat.link_s(self._link))

    # --- what others want to know ---

    def load(self, num_cloud_running: int, expansion_tokens: float) -> Load:
        """What the policy wants to know of this moment."""
        self.look()
        dispatcher = self._dispatcher
        names, share = dispatcher.least_loaded(MAX_EDGES)
        return Load(
            num_edges=self._num_available,
            edge_slots=dispatcher.num_slots,
            num_edge_jobs=dispatcher.num_waiting + dispatcher.num_running,
            num_edge_running=dispatcher.num_running,
            num_cloud_running=num_cloud_running,
            edge_context=self._context,
            edges=tuple(self._state(name) for name in names),
            edges_share=share,
            expansion_tokens=expansion_tokens,
        )

    def _state(self, name: str) -> EdgeState:
        seat = self._seats[name]
        held, link_s = self._dispatcher.num_in_flight(name), seat.link_s(self._link)
        return EdgeState(seat.slots, held, seat.speed, link_s, seat.model)

    def views(self) -> list[EdgeView]:
        """Every registered edge."""
        return [
            EdgeView(
                name=name,
                is_available=self._is_available(name, seat),
                slots=seat.slots,
                num_in_flight=self._dispatcher.num_in_flight(name),
            )
            for name, seat in self._seats.items()
        ]

    def report(self) -> list[dict[str, Any]]:
        """Every registered edge, for those who look after them."""
        return [
            {
                "name": name,
                "state": self._link.state(name),
                **seat.describe(),
                "available": self._is_available(name, seat),
                "in_flight": self._dispatcher.num_in_flight(name),
            }
            for name, seat in self._seats.items()
        ]

    def known(self) -> dict[str, bool]:
        """Names of edges, registered or lately gone -> whether it takes jobs."""
        here = {name: self._is_available(name, seat) for name, seat in self._seats.items()}
        return {**dict.fromkeys(self._gone, False), **here}
