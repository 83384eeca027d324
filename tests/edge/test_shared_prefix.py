"""EdgeWorker over a real engine: what jobs of one request share is computed once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
import tiny_models

from picert.config import EngineConfig
from picert.edge.worker import EdgeWorker
from picert.engine.engine import load_engine
from picert.engine.loop import EngineLoop
from picert.messages import ExpandJob, Expansion, Failure, Segment
from picert.pice.prompts import load_prompts

BLOCK = 16
OUTLINE = ("Exercise helps", "Sleep restores", "Friends listen")


class Outbox:
    """Keeps what the worker sends."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    async def send(self, message: object) -> None:
        assert not isinstance(message, Failure), message
        self.sent.append(message)

    @property
    def expansions(self) -> dict[int, Expansion]:
        return {m.index: m for m in self.sent if isinstance(m, Expansion)}


@pytest_asyncio.fixture
async def edge(tmp_path: Path) -> AsyncIterator[tuple[EdgeWorker, Outbox]]:
    path = tiny_models.make_safetensors(tmp_path, "qwen2", max_position_embeddings=4096)
    config = EngineConfig(
        model=str(path), threads=1, kv_tokens=16384, max_num_seqs=4, block_size=BLOCK
    )
    loop = EngineLoop(load_engine(config))
    loop.start()
    outbox = Outbox()
    yield EdgeWorker({"tiny": loop}, load_prompts(), outbox), outbox  # type: ignore[arg-type]
    loop.stop()
    loop.engine.self_check()
    loop.engine.close()


def job(*indices: int, outline: tuple[str, ...] = OUTLINE) -> ExpandJob:
    return ExpandJob(
        request_id="r",
        attempt=0,
        question="How can one deal with stress?",
        outline=outline,
        segments=tuple(Segment(index, OUTLINE[index]) for index in indices),
        max_tokens=4,
        deadline_s=60.0,
    )


def assert_shares(later: Expansion, first: Expansion) -> None:
    """Read is what differs, the own line and heading, and the block that was begun before it."""
    assert first.cached_tokens == 0
    assert later.prompt_tokens - later.cached_tokens < 64 < first.prompt_tokens / 4


async def test_segments_of_one_job_share_their_prompts_beginning(
    edge: tuple[EdgeWorker, Outbox],
) -> None:
    worker, outbox = edge
    await worker.take(job(0, 1, 2))
    await worker.drain(60.0)
    first, *later = (outbox.expansions[index] for index in range(3))
    for expansion in later:
        assert_shares(expansion, first)


async def test_jobs_that_run_side_by_side_share_it_too_though_lines_came_later(
    edge: tuple[EdgeWorker, Outbox],
) -> None:
    worker, outbox = edge
    await worker.take(job(0, outline=OUTLINE[:1]))
    await worker.take(job(1, outline=OUTLINE[:2]))
    await worker.take(job(2))
    await worker.drain(60.0)
    for index in (1, 2):
        assert_shares(outbox.expansions[index], outbox.expansions[0])
