"""`/v1/completions` over a tiny model, and `/tokenize` beside it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from http_door import data_lines, error_of
from tiny_cloud import NAME, tiny_door, tiny_engine
from tiny_tokenizer import IM_START

from picert.engine.engine import Engine

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return tiny_engine(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with tiny_door(engine) as opened:
        yield opened


async def complete(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(PATH, json={"temperature": 0, "max_tokens": 8, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_body_is_an_openai_text_completion(client: httpx.AsyncClient, engine: Engine) -> None:
    body = await complete(client, prompt="The large model")
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"]) == ("text_completion", NAME)
    [choice] = body["choices"]
    assert choice.keys() == {"index", "text", "finish_reason", "logprobs"}
    assert body["usage"]["prompt_tokens"] == len(engine.tokenizer.encode("The large model"))
    assert body["picert"]["route"] == "direct"
    assert "raw prompt" in " ".join(body["picert"]["reasons"])


async def test_text_and_its_token_ids_are_the_same_prompt(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    ids = engine.tokenizer.encode_prompt("The large model")
    from_text = await complete(client, prompt="The large model")
    from_ids = await complete(client, prompt=ids)
    assert from_ids["choices"] == from_text["choices"]


async def test_several_prompts_are_answered_in_order(client: httpx.AsyncClient) -> None:
    prompts = ["The large model", "Small models"]
    alone = [(await complete(client, prompt=p))["choices"][0]["text"] for p in prompts]
    body = await complete(client, prompt=prompts, n=2)
    texts = [choice["text"] for choice in body["choices"]]
    assert texts == [alone[0], alone[0], alone[1], alone[1]]
    counts = [(await client.post("/tokenize", json={"prompt": p})).json()["count"] for p in prompts]
    assert body["usage"]["prompt_tokens"] == sum(counts)


async def test_echo_repeats_the_prompt(client: httpx.AsyncClient) -> None:
    plain = await complete(client, prompt="The large")
    echoed = await complete(client, prompt="The large", echo=True)
    assert echoed["choices"][0]["text"] == "The large" + plain["choices"][0]["text"]


async def test_stream_has_the_form_of_the_body_and_ends_once(client: httpx.AsyncClient) -> None:
    asked = {"prompt": "The large", "max_tokens": 8, "temperature": 0, "stream": True}
    response = await client.post(PATH, json={**asked, "stream_options": {"include_usage": True}})
    *lines, last = data_lines(response)
    *chunks, usage = [json.loads(line) for line in lines]
    whole = await complete(client, prompt="The large")
    assert last == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] == whole["choices"][0]["finish_reason"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"] | usage["usage"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"prompt": [999_999]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "picert": {"route": "sketch"}}, "picert.route"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    response = await client.post(PATH, json=body)
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param


async def test_prompt_over_the_context_is_a_400_with_both_numbers(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    response = await client.post(PATH, json={"prompt": [5] * 2000})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "2,000" in error["message"]
    assert f"{engine.max_model_len:,}" in error["message"]


async def test_conversation_over_the_context_is_refused_under_its_own_name(
    client: httpx.AsyncClient,
) -> None:
    messages = [{"role": "user", "content": "word " * 2000}]
    error = error_of(await client.post("/v1/chat/completions", json={"messages": messages}))
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


async def test_special_tokens_are_shown_if_asked_for(client: httpx.AsyncClient) -> None:
    asked = {"prompt": "a", "logit_bias": {str(IM_START): 100}, "max_tokens": 2}
    hidden = await complete(client, **asked)
    shown = await complete(client, **asked, skip_special_tokens=False)
    assert hidden["choices"][0]["text"] == ""
    assert shown["choices"][0]["text"] == "<|im_start|>" * 2


# --- tokens ---------------------------------------------------------------------------------------


async def test_tokenize_and_detokenize_are_inverse(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    text = "Rést 🌱 in the cloud"
    told = (await client.post("/tokenize", json={"prompt": text, "return_token_strs": True})).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == engine.max_model_len
    back = await client.post("/detokenize", json={"tokens": told["tokens"]})
    assert back.json() == {"prompt": text}


async def test_tokenize_of_messages_is_what_a_chat_costs(client: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": "What helps with stress?"}]
    told = (await client.post("/tokenize", json={"messages": messages})).json()
    chat = {"messages": messages, "max_tokens": 1}
    answer = (await client.post("/v1/chat/completions", json=chat)).json()
    assert told["count"] == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_bad_fields_of_tokens_are_named(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    response = await client.post(path, json=body)
    assert (response.status_code, error_of(response)["param"]) == (400, param)


# --- turns ----------------------------------------------------------------------------------------


async def test_continued_message_is_rendered_without_its_end(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    question = {"role": "user", "content": "What helps?"}
    turn = {"role": "assistant", "content": "A plan"}
    asked = {"messages": [question, turn], "continue_final_message": True}
    told = (await client.post("/tokenize", json=asked)).json()["tokens"]
    read = (await client.post("/detokenize", json={"tokens": told})).json()["prompt"]
    assert read.endswith("<|im_start|>assistant\nA plan")
    answer = (await client.post("/v1/chat/completions", json={**asked, "max_tokens": 3})).json()
    assert answer["usage"]["prompt_tokens"] == len(told)
    assert not answer["choices"][0]["message"]["content"].startswith("A plan")


async def test_without_a_generation_prompt_no_turn_is_opened(client: httpx.AsyncClient) -> None:
    asked = {
        "messages": [{"role": "user", "content": "What helps?"}],
        "add_generation_prompt": False,
    }
    told = (await client.post("/tokenize", json=asked)).json()["tokens"]
    read = (await client.post("/detokenize", json={"tokens": told})).json()["prompt"]
    assert read.endswith("What helps?<|im_end|>\n")
    answer = (await client.post("/v1/chat/completions", json={**asked, "max_tokens": 3})).json()
    assert answer["usage"]["prompt_tokens"] == len(told)
