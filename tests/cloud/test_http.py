"""The front door over ASGI: what each request gets, byte for byte where clients care."""

from __future__ import annotations

import asyncio
import json

import pytest
from http_door import ANSWER, QUESTION, URL, ask, asked, data_lines, door, error_of
from scripted_service import DONE, ScriptedService, Step, plan, text

from picert.cloud.http import Health, HttpLimits
from picert.errors import ContextLengthExceeded, DeadlineExceeded
from picert.messages import ChatMessage, Progress, SamplingParams

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
                "message": {
                    "role": "assistant",
                    "content": "Walk. Rést. 🌱 Eat.",
                    "refusal": None,
                },
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
    request = await asked(picert=options, priority=-3)
    assert request.priority == -3
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
