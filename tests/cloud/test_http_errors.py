"""What the front door refuses, and in which words: status, type, code and the field's name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from http_door import ANSWER, QUESTION, URL, ask, asked, door, error_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_service import ScriptedService, Step, text

from picert.cloud.http import HttpLimits
from picert.errors import DeadlineExceeded, Draining, PicertError, QueueFull
from picert.messages import ChatMessage


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (DeadlineExceeded("late"), 408, "timeout_error", "deadline_exceeded"),
        (QueueFull("full"), 429, "rate_limit_error", "queue_full"),
        (Draining("stopping"), 503, "unavailable_error", "draining"),
        (PicertError("odd"), 500, "server_error", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_the_service_keep_status_type_and_code(
    error: PicertError, status: int, kind: str, code: str | None, stream: bool
) -> None:
    response = await ask([error], stream=stream)
    assert response.status_code == status
    assert (error_of(response)["type"], error_of(response)["code"]) == (kind, code)
    assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize("script", [[KeyError("secret")], [text("a"), KeyError("secret")], []])
async def test_faults_of_ours_are_a_500_without_their_story(script: list[Step]) -> None:
    response = await ask(script)
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"messages": QUESTION, "temperature": "hot"}, "temperature"),
        ({"messages": QUESTION, "temperature": -1}, "temperature"),
        ({"messages": QUESTION, "top_p": 0}, "top_p"),
        ({"messages": QUESTION, "max_tokens": 0}, "max_tokens"),
        ({"messages": QUESTION, "max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"messages": QUESTION, "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"messages": QUESTION, "seed": -1}, "seed"),
        ({"messages": QUESTION, "picert": {"route": "best"}}, "picert.route"),
        ({"messages": QUESTION, "picert": {"ensemble": 3}}, "picert.ensemble"),
        ({"messages": QUESTION, "request_id": "a b"}, "request_id"),
        ({"messages": QUESTION, "logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"messages": QUESTION, "n": 0}, "n"),
        ({"messages": QUESTION, "n": 1000}, "n"),
        ({"messages": QUESTION, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": QUESTION, "response_format": {"type": "yaml"}}, "response_format"),
        (
            {"messages": QUESTION, "response_format": {"type": "json_schema"}},
            "response_format.json_schema",
        ),
        ({"messages": QUESTION, "continue_final_message": True}, "continue_final_message"),
        ({"messages": QUESTION, "tool_choice": "never"}, "tool_choice"),
        ({"messages": QUESTION, "priority": "high"}, "priority"),
        (
            {"messages": QUESTION, "stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
    ],
)
async def test_bad_fields_are_named(body: dict[str, Any], param: str) -> None:
    service = ScriptedService(ANSWER)
    async with door(service) as client:
        response = await client.post(URL, json=body)
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert error_of(response)["type"] == "invalid_request_error"
    assert not service.requests


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_logprobs", 3),  # without logprobs
        ("tools", [{"type": "function", "function": {"name": "f"}}]),  # not in the tiny template
        ("tool_choice", "required"),  # without tools
        ("stream_options", {"include_usage": True}),  # without stream
        ("best_of", 2),
        ("store", True),
        ("service_tier", "flex"),
        ("guided_json", {}),
        ("continue_final_message", True),
    ],
)
async def test_known_fields_that_are_not_served_are_refused_by_name(field: str, value: Any) -> None:
    response = await ask(**{field: value})
    assert response.status_code == 400
    assert error_of(response)["param"] == field


async def test_fields_that_ask_for_nothing_and_unknown_ones_are_accepted() -> None:
    request = await asked(
        **{"n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}},
        **{"user": "u", "metadata": None, "a_field_of_next_year": {"x": 1}},
    )
    assert request.messages == (ChatMessage("user", "How do I rest?"),)


async def test_an_answer_can_be_sent_back_as_it_came() -> None:
    turn = {"role": "assistant", "content": "Walk.", "refusal": None, "tool_calls": None}
    request = await asked(messages=[*QUESTION, turn, *QUESTION])
    assert [m.role for m in request.messages] == ["user", "assistant", "user"]


async def test_calls_of_a_user_are_refused_by_name() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "user", "content": "a", "tool_calls": [call]}
    response = await ask(messages=[turn])
    assert error_of(response)["param"] == "messages[0].tool_calls"


async def test_unknown_model_is_a_404_that_names_the_served_one() -> None:
    response = await ask(model="gpt-9")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"
    assert "cloud-model" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"[]", 400, None),
        (b'{"messages": [{"role": "user", "content": "a"}], "top_p": NaN}', 400, None),
        (b'"' + b"a" * 1_100_000 + b'"', 413, "body_too_large"),
    ],
)
async def test_bad_bodies(content: bytes, status: int, code: str | None) -> None:
    async with door(ScriptedService(ANSWER)) as client:
        response = await client.post(
            URL, content=content, headers={"content-type": "application/json"}
        )
    assert response.status_code == status, response.text
    assert error_of(response)["code"] == code


async def test_body_over_the_limit_is_refused_without_an_announced_length() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with door(ScriptedService(ANSWER), HttpLimits(max_body_bytes=1000)) as client:
        response = await client.post(
            URL, content=pieces(), headers={"content-type": "application/json"}
        )
    assert response.status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_other_content_types_are_a_415(kind: str) -> None:
    async with door(ScriptedService(ANSWER)) as client:
        body = json.dumps({"messages": QUESTION}).encode()
        response = await client.post(URL, content=body, headers={"content-type": kind})
    assert response.status_code == 415
    assert "application/json" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", URL, 405), ("POST", "/v1/models", 405)],
)
async def test_unknown_paths_and_methods_have_the_same_error_shape(
    method: str, path: str, status: int
) -> None:
    async with door(ScriptedService(ANSWER)) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert path in error_of(response)["message"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_mutated_bodies_are_answered_with_200_or_4xx(data: st.DataObject) -> None:
    good = json.dumps(
        {"messages": QUESTION, "stop": ["x"], "logit_bias": {"5": 1.0}, "picert": {"route": "auto"}}
    ).encode()
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))

    async def send() -> httpx.Response:
        async with door(ScriptedService(ANSWER)) as client:
            return await client.post(
                URL, content=bytes(body), headers={"content-type": "application/json"}
            )

    response = asyncio.run(send())
    assert response.status_code == 200 or error_of(response)["type"].endswith("_error")
    assert response.status_code in (200, 400, 404)
