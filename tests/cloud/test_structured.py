"""JSON and tool calls over a tiny random model: its words are noise, the form is what was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from http_door import data_lines, error_of
from tiny_cloud import tiny_door, tiny_engine

from picert.engine.engine import Engine

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What helps?"}]
MOOD = {
    "type": "object",
    "properties": {"mood": {"enum": ["calm", "tense"]}, "hours": {"enum": [7, 8]}},
    "required": ["mood", "hours"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "mood", "schema": MOOD, "strict": True}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "Says how it is", "parameters": MOOD},
    }
    for name in ("set_mood", "get_mood")
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return tiny_engine(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with tiny_door(engine) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(PATH, json={"messages": QUESTION, "max_tokens": 200, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"seed": 1}, {"seed": 2, "top_k": 5}])
async def test_answer_is_json_of_the_schema(
    client: httpx.AsyncClient, sampling: dict[str, Any]
) -> None:
    body = await ask(client, response_format=FORMAT, **sampling)
    value = json.loads(body["choices"][0]["message"]["content"])
    assert value["mood"] in ("calm", "tense")
    assert value["hours"] in (7, 8)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["picert"]["route"] == "direct"
    assert "form of the answer is prescribed" in " ".join(body["picert"]["reasons"])


async def test_json_mode_begins_an_object_and_says_so_when_it_is_cut(
    client: httpx.AsyncClient,
) -> None:
    body = await ask(client, response_format={"type": "json_object"}, seed=3, max_tokens=12)
    [choice] = body["choices"]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        json.loads(choice["message"]["content"])
    else:
        assert choice["finish_reason"] == "length"


async def test_streamed_json_is_the_same_text(client: httpx.AsyncClient) -> None:
    whole = await ask(client, response_format=FORMAT, seed=1)
    asked = {"messages": QUESTION, "max_tokens": 200, "response_format": FORMAT, "seed": 1}
    response = await client.post(PATH, json={**asked, "stream": True})
    deltas = [json.loads(line)["choices"][0]["delta"] for line in data_lines(response)[:-1]]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]


async def test_neighbours_of_a_prescribed_form_write_what_they_write_alone(
    client: httpx.AsyncClient,
) -> None:
    plain = {"prompt": "The large model", "seed": 5, "max_tokens": 12}
    alone = (await client.post("/v1/completions", json=plain)).json()["choices"]
    several = await client.post(
        PATH, json={"messages": QUESTION, "response_format": FORMAT, "n": 4}
    )
    assert several.status_code == 200
    beside = (await client.post("/v1/completions", json=plain)).json()["choices"]
    assert beside == alone


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
            "type": "robot"}}}}, "response_format"),
        ({"response_format": FORMAT, "ignore_eos": True}, "ignore_eos"),
        ({"response_format": FORMAT, "min_tokens": 5}, "min_tokens"),
        ({"response_format": FORMAT, "tools": TOOLS}, "response_format"),
        ({"response_format": FORMAT, "picert": {"route": "sketch"}}, "picert.route"),
        ({"tools": TOOLS, "picert": {"route": "edge_only"}}, "picert.route"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}},
         "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "type": "robot"}}}], "tool_choice": "required"}, "tools"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_followed_is_a_400_with_the_name(
    client: httpx.AsyncClient, body: dict[str, Any], param: str, stream: bool
) -> None:
    response = await client.post(PATH, json={"messages": QUESTION, "stream": stream, **body})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param


# --- tools ----------------------------------------------------------------------------------------


async def test_required_call_is_made_with_arguments_of_the_schema(
    client: httpx.AsyncClient,
) -> None:
    body = await ask(
        *(client,),
        **{"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": 1},
    )
    [choice] = body["choices"]
    [call] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["id"].startswith("call_")
    assert call["function"]["name"] in ("set_mood", "get_mood")
    assert json.loads(call["function"]["arguments"]).keys() == {"mood", "hours"}
    assert body["picert"]["reasons"][-1] == "direct: tools are given"


async def test_named_function_is_the_one_that_is_called(client: httpx.AsyncClient) -> None:
    choice = {"type": "function", "function": {"name": "get_mood"}}
    body = await ask(client, tools=TOOLS, tool_choice=choice, seed=2)
    [call] = body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_mood"


async def test_streamed_call_is_one_delta_with_index_id_name_and_arguments(
    client: httpx.AsyncClient,
) -> None:
    asked = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": 1}
    response = await client.post(
        PATH, json={"messages": QUESTION, "max_tokens": 200, "stream": True, **asked}
    )
    choices = [json.loads(line)["choices"][0] for line in data_lines(response)[:-1]]
    [call] = [call for c in choices for call in c["delta"].get("tool_calls", ())]
    assert call["index"] == 0
    assert call["type"] == "function"
    assert json.loads(call["function"]["arguments"]).keys() == {"mood", "hours"}
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert not any(c["delta"].get("content") for c in choices)


async def test_tools_stand_in_the_prompt_unless_none_may_be_called(
    client: httpx.AsyncClient,
) -> None:
    bare = await ask(client, max_tokens=1)
    shown = await ask(client, tools=TOOLS, max_tokens=1)
    hidden = await ask(client, tools=TOOLS, tool_choice="none", max_tokens=1)
    assert shown["usage"]["prompt_tokens"] > bare["usage"]["prompt_tokens"]
    assert hidden["usage"]["prompt_tokens"] == bare["usage"]["prompt_tokens"]


async def test_a_call_and_its_result_can_be_sent_back(client: httpx.AsyncClient) -> None:
    body = await ask(client, tools=TOOLS, tool_choice="required", seed=1)
    turn = body["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "8"} for call in turn["tool_calls"]
    ]
    again = await ask(client, tools=TOOLS, messages=[*QUESTION, turn, *results], max_tokens=2)
    assert again["usage"]["prompt_tokens"] > body["usage"]["prompt_tokens"]


async def test_model_without_tools_in_its_template_refuses_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    plain = tiny_engine(tmp_path_factory.mktemp("plain"), chat_template=None)
    async with tiny_door(plain) as client:
        response = await client.post(PATH, json={"messages": QUESTION, "tools": TOOLS})
    assert (response.status_code, error_of(response)["param"]) == (400, "tools")
