"""A simulated system: the real service, pool and workers over simulated engines and a simulated
link. `running` builds one, `System.ask` asks it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import msgspec

from picert import __version__
from picert.cloud.edges import EdgePool
from picert.cloud.service import CloudService
from picert.config import CloudConfig, EngineConfig, LinkConfig, PolicyConfig
from picert.edge.worker import EdgeWorker
from picert.errors import PicertError
from picert.messages import (
    ChatMessage,
    Done,
    Hello,
    ModelInfo,
    Request,
    SamplingParams,
    TextDelta,
)
from picert.pice.profile_file import ModelProfile
from picert.pice.prompts import PromptBook, load_prompts
from picert.simulate.author import CloudAuthor, EdgeAuthor
from picert.simulate.engine import (
    Author,
    EngineLimits,
    Identity,
    SimulatedEngine,
    SimulatedLoop,
    Telling,
)
from picert.simulate.host import Chores, Host
from picert.simulate.link import Connection, Network, SimulatedLink
from picert.simulate.load import Answered
from picert.simulate.questions import Question
from picert.simulate.tokens import WordTokenizer
from picert.simulate.workload import Writing

_CONTEXT = 4096  # tokens, of every model
_REFUSAL_S = 1.0  # until a client that was refused at once asks again: time must go on


@dataclass(frozen=True, slots=True)
class Runs:
    """A model on a machine: how fast it is, and what it is said to be, if that is not the same."""

    model: str
    profile: ModelProfile
    num_parameters: int
    limits: EngineLimits
    believed: ModelProfile | None = None

    @property
    def told(self) -> ModelProfile:
        """What the service begins with."""
        return self.believed or self.profile


@dataclass(frozen=True, slots=True)
class Churn:
    """Edges that crash and come back, each independently: exponential times."""

    per_hour: float = 0.0  # crashes of one edge
    away_s: float = 30.0  # mean


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that serving costs beside the engines."""

    request_s: float = 0.0  # until a question is in the service
    step_s: float = 0.0  # of the cloud's host: a step
    token_s: float = 0.0  # of an engine's host: a token that is told
    message_s: float = 0.0  # of the cloud's host: a token that an edge tells


@dataclass(frozen=True, slots=True)
class Setting:
    """What a system is made of."""

    cloud: Runs
    edges: tuple[tuple[Runs, ...], ...]  # models of each
    policy: PolicyConfig
    network: Network
    churn: Churn
    overheads: Overheads
    edges_per_host: int = 1  # that share a machine
    max_tokens: int = 256  # of an answer
    deadline_s: float = 600.0
    max_num_requests: int = 1_000_000
    seed: int = 0
    tokens_per_event: int = 8


class Edge:
    """An edge over all its lives."""

    def __init__(self, hello: Hello, loops: Mapping[str, SimulatedLoop]) -> None:
        self.hello = hello
        self._loops = loops
        self._life: tuple[EdgeWorker, Connection] | None = None

    def start(self, link: SimulatedLink, prompts: PromptBook) -> None:
        """Its process begins and registers."""
        connection = link.connect(msgspec.structs.replace(self.hello))  # an object of its own
        clock = asyncio.get_running_loop().time
        worker = EdgeWorker(self._loops, prompts, connection, clock)
        connection.join(worker.take)
        self._life = (worker, connection)

    async def crash(self, link: SimulatedLink) -> None:
        """Its process ends."""
        assert self._life is not None
        worker, connection = self._life
        link.crash(connection)
        for loop in self._loops.values():
            loop.crash()
        await worker.drain(0.0)


class System:
    """A running system."""

    def __init__(self, service: CloudService, pool: EdgePool, setting: Setting) -> None:
        self.service = service
        self.pool = pool
        self._setting = setting
        self._clock = asyncio.get_running_loop().time
        self._numbers = itertools.count()

    def self_check(self) -> None:
        """Raises AssertionError where the pool's accounts differ from its tables."""
        self.pool.self_check()

    async def ask(self, question: Question) -> Answered:
        """One answer as its client sees it. A failure is an answer with an error."""
        setting, began = self._setting, self._clock()
        request = Request(
            request_id=f"{question.id}.{next(self._numbers)}",
            messages=(ChatMessage("user", question.question),),
            sampling=SamplingParams(temperature=0.0, max_tokens=setting.max_tokens),
            deadline_s=setting.deadline_s,
        )
        first_s: float | None = None
        done: Done | None = None
        error: str | None = None
        if setting.overheads.request_s:
            await asyncio.sleep(setting.overheads.request_s)
        try:
            async with aclosing(self.service.answer(request)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        if first_s is None and event.text.strip():
                            first_s = self._clock() - began
                    elif isinstance(event, Done):
                        done = event
        except PicertError as failure:
            error = failure.code or failure.kind
            if self._clock() == began:
                await asyncio.sleep(_REFUSAL_S)
        return Answered(question, "", self._clock() - began, first_s, done, error)


@asynccontextmanager
async def running(setting: Setting, writing: Writing) -> AsyncIterator[System]:
    """A system, until the block is left."""
    prompts, tokenizer = load_prompts(), WordTokenizer()
    loop = asyncio.get_running_loop()
    host = Host(loop)
    chores = Chores(host)
    of = setting.overheads
    link = SimulatedLink(
        setting.network,
        writing.rng("link"),
        LinkConfig(),
        lambda num_tokens, done: chores.add(of.message_s * num_tokens, done),
    )
    pool = EdgePool(link, setting.policy, loop.time, writing.rng("pool"))
    author = CloudAuthor(writing, setting.cloud.model)
    cloud = _loop(setting.cloud, host, author, tokenizer, _telling(setting, of.step_s))
    service = CloudService(cloud, pool, prompts, _config(setting), loop.time)
    service.begin_with(setting.cloud.told)
    edges = _edges(setting, writing, tokenizer)
    tasks = [asyncio.create_task(pool.serve())]
    try:
        for edge in edges:
            edge.start(link, prompts)
            if setting.churn.per_hour > 0:
                rng = writing.rng("churn", edge.hello.name)
                living = _come_and_go(edge, setting.churn, rng, link, prompts)
                tasks.append(asyncio.create_task(living))
        while len(pool.roster) < len(edges):
            await asyncio.sleep(0)
        yield System(service, pool, setting)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _come_and_go(
    edge: Edge, churn: Churn, rng: random.Random, link: SimulatedLink, prompts: PromptBook
) -> None:
    while True:
        await asyncio.sleep(rng.expovariate(churn.per_hour / 3600))
        await edge.crash(link)
        await asyncio.sleep(rng.expovariate(1 / churn.away_s))
        edge.start(link, prompts)


def _edges(setting: Setting, writing: Writing, tokenizer: WordTokenizer) -> list[Edge]:
    """Neighbours share a host, as many as the setting says; edges with one model, its author."""
    loop = asyncio.get_running_loop()
    names = {runs.model for models in setting.edges for runs in models}
    authors = {name: EdgeAuthor(writing, name) for name in names}
    edges = []
    for number, models in enumerate(setting.edges):
        if number % setting.edges_per_host == 0:
            host = Host(loop)
        loops = {
            runs.model: _loop(runs, host, authors[runs.model], tokenizer, _telling(setting, 0.0))
            for runs in models
        }
        edges.append(Edge(_hello(f"edge-{number + 1}", models), loops))
    return edges


def _loop(
    runs: Runs, host: Host, author: Author, tokenizer: WordTokenizer, telling: Telling
) -> SimulatedLoop:
    engine = SimulatedEngine(Identity(runs.model), tokenizer, runs.limits)
    return SimulatedLoop(engine, runs.profile.speed(), host, author, telling)


def _telling(setting: Setting, step_s: float) -> Telling:
    return Telling(step_s, setting.overheads.token_s, setting.tokens_per_event)


def _hello(name: str, models: Sequence[Runs]) -> Hello:
    """As an edge that was given a file of `picert profile` says it."""
    return Hello(
        name=name,
        picert_version=__version__,
        models=tuple(
            ModelInfo(r.model, r.model, r.num_parameters, _CONTEXT, r.told.calibration)
            for r in models
        ),
        curves=tuple(runs.told.curve(runs.model) for runs in models),
        slots=sum(runs.limits.max_num_seqs for runs in models),
        kv_tokens=sum(runs.limits.kv_tokens for runs in models),
    )


def _config(setting: Setting) -> CloudConfig:
    return CloudConfig(
        engine=EngineConfig(model=setting.cloud.model),
        policy=setting.policy,
        max_num_requests=setting.max_num_requests,
        queue_timeout_s=setting.deadline_s,
        deadline_s=setting.deadline_s,
    )
