"""Several answers to one request: each is a request to the service, and they share one response."""

from __future__ import annotations

import asyncio
import json

from http_door import ANSWER, QUESTION, URL, ask, data_lines, door, error_of
from scripted_service import DONE, ScriptedService, plan, text

from picert.errors import QueueFull
from picert.messages import Done, Request


async def requests_of(**body: object) -> list[Request]:
    service = ScriptedService(ANSWER)
    async with door(service) as client:
        response = await client.post(URL, json={"messages": QUESTION, **body})
    assert response.status_code == 200, response.text
    return service.requests


async def test_n_answers_are_n_choices_and_the_prompt_is_counted_once() -> None:
    body = (await ask(n=3)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"Walk. Rést. 🌱 Eat."}
    assert body["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 21,
        "total_tokens": 30,
        "prompt_tokens_details": {"cached_tokens": 9},
    }
    assert body["picert"]["cloud_completion_tokens"] == 3 * 12


async def test_each_answer_has_an_id_and_a_seed_of_its_own() -> None:
    requests = await requests_of(n=3, seed=7)
    assert len({request.request_id for request in requests}) == 3
    assert [request.sampling.seed for request in requests] == [7, 8, 9]
    assert {request.num_choices for request in requests} == {3}


async def test_streamed_choices_each_begin_and_end_once_before_one_end_mark() -> None:
    *lines, last = data_lines(await ask(n=2, stream=True, stream_options={"include_usage": True}))
    *chunks, usage = [json.loads(line) for line in lines]
    by_index: dict[int, list[dict[str, object]]] = {0: [], 1: []}
    for chunk in chunks:
        [choice] = chunk["choices"]
        by_index[choice["index"]].append(choice)
    for choices in by_index.values():
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["stop"]
        told = "".join(c["delta"].get("content", "") for c in choices)  # type: ignore[attr-defined]
        assert told == "Walk. Rést. 🌱 Eat."
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 14)
    assert last == "[DONE]"


async def test_when_one_answer_is_refused_all_are_and_nothing_stays_open() -> None:
    service = FullAfterOne()
    async with door(service) as client:
        for stream in (False, True):
            response = await client.post(URL, json={"messages": QUESTION, "n": 2, "stream": stream})
            assert (response.status_code, error_of(response)["code"]) == (429, "queue_full")
            assert (service.num_open, service.num_closed) == (0, 1)
            service.num_closed = 0


class FullAfterOne(ScriptedService):
    """Has room for one answer, which never ends."""

    def __init__(self) -> None:
        super().__init__([plan("direct"), text("a"), asyncio.Event()])

    def answer(self, request: Request):  # type: ignore[no-untyped-def]
        if request.request_id.endswith(".1"):
            return self._refuse()
        return super().answer(request)

    async def _refuse(self):  # type: ignore[no-untyped-def]
        raise QueueFull("full")
        yield DONE


async def test_forced_sketch_and_several_answers_are_a_conflict_that_names_both() -> None:
    response = await ask(n=2, picert={"route": "sketch"})
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "picert.route")
    assert "sketch" in error["message"]
    assert " n " in error["message"]


def test_done_of_the_script_is_what_these_figures_rest_on() -> None:
    assert isinstance(DONE, Done)
    assert (DONE.prompt_tokens, DONE.completion_tokens) == (9, 7)
