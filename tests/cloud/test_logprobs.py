"""Log-probabilities in both of OpenAI's forms, whole and streamed."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest
from http_door import ask, data_lines
from scripted_service import DONE, Step, facts, plan
from tiny_cloud import tiny_door, tiny_engine

from picert.engine.engine import Engine
from picert.messages import TextDelta, TokenLogprob

TOKENS = facts().tokens
PROMPT = "The large model"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return tiny_engine(tmp_path_factory.mktemp("model"))


def drawn(text: str, *, top: int = 0) -> TextDelta:
    """A delta of the tokens that `text` is encoded as."""
    ids = TOKENS.encode(text)
    best = tuple((n, -float(n)) for n in range(1, top + 1))
    return TextDelta("", 0, 0, text, tuple(TokenLogprob(i, -0.5, best) for i in ids))


async def test_chat_gives_each_token_with_its_bytes_and_the_best_ones() -> None:
    script: list[Step] = [plan("direct"), drawn("the answer", top=2), DONE]
    response = await ask(script, logprobs=True, top_logprobs=2)
    logprobs = response.json()["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    tokens = logprobs["content"]
    assert "".join(token["token"] for token in tokens) == "the answer"
    assert b"".join(bytes(token["bytes"]) for token in tokens) == b"the answer"
    assert all(token["logprob"] == -0.5 for token in tokens)
    assert [best["logprob"] for best in tokens[0]["top_logprobs"]] == [-1.0, -2.0]


async def test_logprobs_are_null_where_they_are_not_asked_for() -> None:
    response = await ask([plan("direct"), drawn("the answer"), DONE])
    assert response.json()["choices"][0]["logprobs"] is None


async def test_minus_infinity_is_written_as_a_number() -> None:
    delta = TextDelta("", 0, 0, "x", (TokenLogprob(5, -math.inf, ((6, -math.inf),)),))
    response = await ask([plan("direct"), delta, DONE], logprobs=True, top_logprobs=1)
    [token] = response.json()["choices"][0]["logprobs"]["content"]
    assert (token["logprob"], token["top_logprobs"][0]["logprob"]) == (-9999.0, -9999.0)


async def test_a_token_whose_text_is_held_back_is_told_at_once() -> None:
    held = TextDelta("", 0, 0, "", (TokenLogprob(5, -1.0),))
    lines = data_lines(await ask([plan("direct"), held, DONE], stream=True, logprobs=True))
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert [len(c["logprobs"]["content"]) for c in choices if c["logprobs"]] == [1]


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_plain_completion_tells_tokens_best_ones_and_offsets(engine: Engine) -> None:
    async with tiny_door(engine) as client:
        body = await post(
            *(client, "/v1/completions"),
            **{"prompt": PROMPT, "logprobs": 3, "max_tokens": 6, "seed": 1},
        )
    [choice] = body["choices"]
    told = choice["logprobs"]
    assert len(told["tokens"]) == body["usage"]["completion_tokens"]
    for token, value, best in zip(*list(told.values())[:3], strict=True):
        assert best[token] == value
        assert 1 <= len(best) <= 4
    lengths = [len(token) for token in told["tokens"]]
    assert told["text_offset"] == [sum(lengths[:n]) for n in range(len(lengths))]


async def test_streamed_logprobs_are_those_of_the_whole_answer(engine: Engine) -> None:
    asked = {"prompt": PROMPT, "logprobs": 1, "max_tokens": 6, "seed": 1}
    async with tiny_door(engine) as client:
        whole = await post(client, "/v1/completions", **asked)
        response = await client.post("/v1/completions", json={**asked, "stream": True})
    chunks = [json.loads(line)["choices"][0] for line in data_lines(response)[:-1]]
    joined: dict[str, list[Any]] = {}
    for chunk in chunks:
        for name, values in (chunk["logprobs"] or {}).items():
            joined.setdefault(name, []).extend(values)
    assert joined == whole["choices"][0]["logprobs"]
    assert "".join(chunk["text"] for chunk in chunks) == whole["choices"][0]["text"]


async def test_end_token_is_neither_shown_nor_counted(engine: Engine) -> None:
    ids = engine.tokenizer.eos_token_ids
    asked = {"prompt": PROMPT, "logprobs": 0, "logit_bias": {str(ids[0]): 100}}
    async with tiny_door(engine) as client:
        body = await post(client, "/v1/completions", **asked)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["text"] == ""
    assert body["choices"][0]["logprobs"]["tokens"] == []
    assert body["usage"]["completion_tokens"] == 0


async def test_usage_counts_what_was_drawn(engine: Engine) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 9, "ignore_eos": True, "seed": 3}
    async with tiny_door(engine) as client:
        body = await post(client, "/v1/completions", **asked)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 9
