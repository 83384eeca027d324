"""`picert-cloud`: load the model, bind the link and the HTTP port, answer until told to stop.

The one place that builds a cloud's parts, and the one that ends them in order: no new requests,
those in flight finish or time out, the edges are told, the engine stops.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

from starlette.types import ASGIApp

from picert import __version__, hub
from picert.cloud.admin import add_admin
from picert.cloud.door import Door, open_door
from picert.cloud.draft import Draft
from picert.cloud.edges import EdgePool
from picert.cloud.exchange import ModelFacts
from picert.cloud.health import health, wind_down
from picert.cloud.http import HttpLimits, ServedModel, create_app
from picert.cloud.metrics import add_metrics, new_registry
from picert.cloud.server import ServerOptions, serve
from picert.cloud.service import CloudService
from picert.config import CloudConfig
from picert.engine.engine import load_engine
from picert.engine.generation_config import sampling_defaults
from picert.engine.loop import EngineLoop
from picert.errors import ConfigError
from picert.log import configure, get_logger
from picert.messages import SamplingParams
from picert.pice.profile_file import profile_of
from picert.pice.prompts import load_prompts
from picert.transport.link import ServerLink

logger = get_logger(__name__)


class Traces(Protocol):
    """What is asked of `picert.cloud.tracing`, which is loaded only where traces are wanted."""

    def record(self, draft: Draft) -> None:
        """Make the spans of a question that has ended."""
        ...

    def traced(self, app: ASGIApp) -> ASGIApp:
        """Let requests go on with their caller's trace."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


OnReady = Callable[[str, str], None]  # HTTP URL, address for edges


def run_cloud(config: CloudConfig, on_ready: OnReady) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises PicertError for what stops it from starting. The port is bound before the model is
    loaded, so that a port in use is known at once.
    """
    configure("cloud", config.log_level, config.log_format)
    path = hub.find(config.engine.model)
    door = open_door(config)
    try:
        loop = EngineLoop(load_engine(config.engine.model_copy(update={"model": str(path)})))
        gc.freeze()  # what is loaded stays: no full collection need walk it between two steps
        loop.start()
        try:
            defaults = sampling_defaults(path)
            return asyncio.run(_serve(config, loop, door, defaults, on_ready))
        finally:
            loop.stop(config.shutdown_timeout_s)
    finally:
        door.listener.close()


async def _serve(
    config: CloudConfig,
    loop: EngineLoop,
    door: Door,
    defaults: SamplingParams,
    on_ready: OnReady,
) -> int:
    """Everything that lives on the event loop, from the link to the last answer."""
    told, stop = _stop_on_signal(), asyncio.Event()
    tracing = _tracing(config)
    profile = None
    if config.profile is not None:  # before there is anything to close
        identity = loop.engine.identity
        profile = profile_of(Path(config.profile), config.engine.model, identity.fingerprint)
    link = ServerLink(config.link, picert_version=__version__)
    await link.start()
    pool = EdgePool(link, config.policy)
    service = CloudService(loop, pool, load_prompts(), config)
    if profile is not None:
        service.begin_with(profile)
    if tracing is not None:
        service.on_end = tracing.record
    following = asyncio.create_task(pool.serve())
    app = create_app(
        service,
        lambda: health(loop, service.admission, pool, following),
        [ServedModel(config.served_model_name or config.engine.model, int(time.time()))],
        ModelFacts(loop.engine.tokenizer, loop.engine.max_model_len, defaults),
        HttpLimits(deadline_s=config.deadline_s),
    )
    add_admin(app, service, pool, link)
    add_metrics(app, new_registry(loop, service.tally, pool, link))
    ending = asyncio.create_task(
        wind_down(told, service.admission, stop, config.shutdown_timeout_s)
    )
    try:
        await service.read_ahead()
        await serve(
            *(door.guarded(app if tracing is None else tracing.traced(app)), door.listener),
            ready=lambda port: on_ready(door.url(port), link.address),
            stop=stop,
            options=ServerOptions(config.shutdown_timeout_s, door.tls),
        )
        return 0
    finally:
        await link.close()
        ending.cancel()
        await asyncio.gather(following, ending, return_exceptions=True)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _tracing(config: CloudConfig) -> Traces | None:
    """Where traces go, if they are wanted. Raises ConfigError without the extra."""
    if config.otlp_endpoint is None:
        return None
    try:
        module = import_module("picert.cloud.tracing")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--otlp-endpoint needs {error.name}: pip install 'picert[otel]'"
        ) from None
    tracing: Traces = module.tracing_to(config.otlp_endpoint)
    return tracing
