"""Answers drawn at random from a seed: amid a crowd, of which many leave, as on a quiet system."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from eventually import eventually
from tiny_cloud import tiny_door, tiny_engine

PATH = "/v1/chat/completions"


async def ask(client: httpx.AsyncClient, seed: int) -> str:
    body = {
        "messages": [{"role": "user", "content": f"What helps in case {seed}?"}],
        "seed": seed,
        "temperature": 1.0,
        "max_tokens": 160,
        "ignore_eos": True,
        "picert": {"route": "direct"},
    }
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


async def test_seeded_answers_amid_a_crowd_that_leaves_are_those_of_a_quiet_system(
    tmp_path: Path,
) -> None:
    engine = tiny_engine(tmp_path, kv_tokens=2048)
    async with tiny_door(engine) as client:
        crowd = [asyncio.create_task(ask(client, seed)) for seed in range(30)]
        await eventually(lambda: engine.stats.num_running > 20)
        for leaving in crowd[::3]:
            leaving.cancel()
        stayed = [seed for seed in range(30) if seed % 3]
        amid = await asyncio.gather(*(crowd[seed] for seed in stayed))
        num_preemptions = engine.stats.preemptions
        quiet = [await ask(client, seed) for seed in stayed]
    assert amid == quiet
    assert len(set(quiet)) == len(stayed)
    assert num_preemptions > 0  # some lost their memory on the way
    engine.close()
