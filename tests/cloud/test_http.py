"""The front door over ASGI: what each request gets, byte for byte where clients care."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_service import DONE, ScriptedService, Step, plan, text

from picert.cloud.http import Health, HttpLimits, ServedModel, create_app
from picert.errors import ContextLengthExceeded, DeadlineExceeded, Draining, PicertError, QueueFull
from picert.messages import ChatMessage, Progress, SamplingParams

MODEL = ServedModel("cloud-model", 1_700_000_000)
ANSWER: list[Step] = [plan(), text("Walk. "), text("Rést. 🌱 "), text("Eat."), DONE]
QUESTION = [{"role": "user", "content": "How do I rest?"}]
URL = "/v1/chat/completions"


@asynccontextmanager
async def door(
    service: ScriptedService,
    limits: HttpLimits | None = None,
    default_sampling: SamplingParams | None = None,
    health: Health | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(service, lambda: health or Health(), [MODEL], limits, default_sampling)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
        yield client


async def ask(script: Sequence[Step] = ANSWER, **body: Any) -> httpx.Response:
    async with door(ScriptedService(script)) as client:
        return await client.post(URL, json={"messages": QUESTION, **body})


async def asked(**body: Any) -> Any:
    """The Request that the service gets for a body."""
    service = ScriptedService(ANSWER)
    async with door(service) as client:
        response = await client.post(URL, json={"messages": QUESTION, **body})
    assert response.status_code == 200, response.text
    return service.requests[0]


def data_lines(response: httpx.Response) -> list[str]:
    events = response.content.decode().split("\n\n")
    assert events.pop() == ""
    return [event.removeprefix("data: ") for event in events if event.startswith("data: ")]


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in response.text
    return error


# --- plain ----------------------------------------------------------------------------------------


async def test_plain_answer_is_an_openai_chat_completion() -> None:
    response = await ask()
    body = response.json()
    assert response.status_code == 200
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 0
    report = body.pop("picert")
    assert body == {
        "object": "chat.completion",
        "model": "cloud-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Walk. Rést. 🌱 Eat."},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 7,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 9},
        },
    }
    assert report["route"] == "sketch"
    assert report["edges"] == ["a", "b"]
    assert report["edge_completion_tokens"] == 7
    assert (report["queue_ms"], report["total_ms"]) == (4.0, 1500.0)


async def test_headers_tell_route_edges_attempts_and_queue_time() -> None:
    headers = (await ask()).headers
    assert headers["x-picert-route"] == "sketch"
    assert headers["x-picert-edges"] == "a,b"
    assert headers["x-picert-attempts"] == "4"
    assert headers["x-picert-queue-ms"] == "4"


@pytest.mark.parametrize(("explain", "shown"), [(True, "Walk."), (False, None)])
async def test_texts_of_segments_are_reported_only_when_explained(
    explain: bool, shown: str | None
) -> None:
    response = await ask(picert={"explain": explain})
    assert response.json()["picert"]["segments"][0]["expansion"] == shown


async def test_request_id_of_the_client_comes_back_and_stays_unique_inside() -> None:
    service = ScriptedService(ANSWER)
    async with door(service) as client:
        for _ in range(2):
            response = await client.post(
                URL, json={"messages": QUESTION}, headers={"X-Request-Id": "mine"}
            )
            assert response.headers["x-request-id"] == "mine"
    first, second = (request.request_id for request in service.requests)
    assert first != second
    assert first.startswith("mine-")


async def test_iterator_is_closed_after_a_plain_answer() -> None:
    service = ScriptedService(ANSWER)
    async with door(service) as client:
        await client.post(URL, json={"messages": QUESTION})
    assert (service.num_open, service.num_closed) == (0, 1)


# --- stream ---------------------------------------------------------------------------------------


async def test_stream_is_role_then_text_then_reason_then_done() -> None:
    response = await ask(stream=True)
    *lines, last = data_lines(response)
    chunks = [json.loads(line) for line in lines]
    assert last == "[DONE]"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-picert-route"] == "sketch"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Walk. "},
        {"content": "Rést. 🌱 "},
        {"content": "Eat."},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * 4 + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[-1]["picert"]["route"] == "sketch"


async def test_include_usage_adds_null_usage_and_one_chunk_without_choices() -> None:
    *lines, last = data_lines(await ask(stream=True, stream_options={"include_usage": True}))
    chunks = [json.loads(line) for line in lines]
    assert last == "[DONE]"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 16


async def test_golden_stream() -> None:
    response = await ask([text("Hi\n\n“你好”"), DONE], stream=True)
    first, second, *_ = response.content.decode().split("\n\n")
    head = json.loads(first.removeprefix("data: "))
    prefix = (
        f'data: {{"id":"{head["id"]}","object":"chat.completion.chunk",'
        f'"created":{head["created"]},"model":"cloud-model","choices":[{{"index":0,"delta":'
    )
    assert first == prefix + (
        '{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
    )
    assert second == prefix + (
        '{"content":"Hi\\n\\n“你好”"},"logprobs":null,"finish_reason":null}]}'
    )


async def test_progress_is_told_only_to_those_who_ask() -> None:
    note = Progress(request_id="", stage="expand", index=1, edge="b", text="Rest", done=1, total=3)
    script: list[Step] = [plan(), note, text("Walk."), DONE]
    quiet = data_lines(await ask(script, stream=True))
    told = data_lines(await ask(script, stream=True, picert={"progress": True}))
    chunks = [json.loads(line) for line in told[:-1]]
    assert len(quiet) == 4
    assert [c["picert"]["stage"] for c in chunks if "picert" in c and "stage" in c["picert"]] == [
        "plan",
        "expand",
    ]
    assert chunks[2]["choices"][0]["delta"] == {}
    assert chunks[2]["picert"] == {
        **{"stage": "expand", "done": 1, "total": 3},
        **{"index": 1, "edge": "b", "text": "Rest"},
    }


async def test_silence_is_filled_with_comments() -> None:
    release = asyncio.Event()
    service = ScriptedService([plan(), text("a"), release, DONE])
    async with door(service, HttpLimits(keep_alive_s=0.02)) as client:
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, release.set)
        response = await client.post(URL, json={"messages": QUESTION, "stream": True})
    assert response.content.count(b": keep-alive\n\n") >= 2
    assert data_lines(response)[-1] == "[DONE]"


async def test_error_before_the_first_text_is_a_status() -> None:
    error = ContextLengthExceeded("prompt has 5,000 tokens, the limit is 4,096: shorten it")
    response = await ask([plan(), error], stream=True)
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"


async def test_error_after_the_first_text_is_the_last_event() -> None:
    response = await ask([plan(), text("Walk."), DeadlineExceeded("time is over")], stream=True)
    last = json.loads(data_lines(response)[-1])
    assert response.status_code == 200
    assert last == {
        "error": {
            "message": "time is over",
            "type": "timeout_error",
            "param": None,
            "code": "deadline_exceeded",
        }
    }


# --- errors ---------------------------------------------------------------------------------------


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
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
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


async def test_tool_calls_in_a_message_are_refused_by_name() -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    response = await ask(messages=[*QUESTION, turn, *QUESTION])
    assert error_of(response)["param"] == "messages[1].tool_calls"


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


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# --- what reaches the service ---------------------------------------------------------------------


async def test_sampling_fields_reach_the_service() -> None:
    given = {
        **{"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 3},
        **{"repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3},
        **{"logit_bias": {"42": -1}, "ignore_eos": True, "min_tokens": 2},
    }
    request = await asked(max_completion_tokens=9, stop="END", stop_token_ids=[1, 2], **given)
    expected = SamplingParams(
        max_tokens=9,
        stop=("END",),
        stop_token_ids=(1, 2),
        **{**given, "logit_bias": {42: -1.0}},  # type: ignore[arg-type]
    )
    assert request.sampling == expected


async def test_what_is_left_out_comes_from_the_models_defaults() -> None:
    service = ScriptedService(ANSWER)
    defaults = SamplingParams(temperature=0.7, top_p=0.8, max_tokens=33)
    async with door(service, default_sampling=defaults) as client:
        await client.post(URL, json={"messages": QUESTION, "top_p": 0.5})
    sampling = service.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.7, 0.5, 33)


async def test_our_options_reach_the_service() -> None:
    options = {"route": "edge_only", "sketch_tokens": 50, "deadline_ms": 1500, "progress": True}
    request = await asked(picert=options)
    assert (request.route, request.sketch_tokens) == ("edge_only", 50)
    assert (request.deadline_s, request.progress) == (1.5, True)


async def test_content_parts_are_joined_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "How do I "}, {"type": "text", "text": "rest?"}]
    request = await asked(
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    )
    assert request.messages == (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "How do I rest?"),
    )


# --- the other endpoints --------------------------------------------------------------------------


async def test_models_are_listed_and_found() -> None:
    expected = {
        **{"id": "cloud-model", "object": "model"},
        **{"created": 1_700_000_000, "owned_by": "picert"},
    }
    async with door(ScriptedService(ANSWER)) as client:
        listed = await client.get("/v1/models")
        one = await client.get("/v1/models/cloud-model")
        none = await client.get("/v1/models/org/other")
    assert listed.json() == {"object": "list", "data": [expected]}
    assert one.json() == expected
    assert none.status_code == 404
    assert error_of(none)["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_ready_names_the_edges(path: str) -> None:
    async with door(ScriptedService([]), health=Health(None, ("a", "b"))) as client:
        response = await client.get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "edges": ["a", "b"]}


async def test_not_ready_says_why_while_live_stays_green() -> None:
    async with door(ScriptedService([]), health=Health("the engine has stopped")) as client:
        ready = await client.get("/health/ready")
        live = await client.get("/health/live")
    assert ready.status_code == 503
    assert ready.json() == {"status": "not_ready", "reason": "the engine has stopped"}
    assert live.status_code == 200


async def test_version_and_the_generated_document() -> None:
    async with door(ScriptedService([])) as client:
        version = (await client.get("/version")).json()
        document = (await client.get("/openapi.json")).json()
    assert set(version) == {"version", "protocol"}
    assert "/v1/chat/completions" in document["paths"]
