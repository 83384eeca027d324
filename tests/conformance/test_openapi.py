"""Our own OpenAPI document, and schemathesis, which asks for what it promises."""

from __future__ import annotations

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from scripted_service import DONE, ScriptedService, facts, plan, text

from picert.cloud.http import Health, ServedModel, create_app

MODEL = ServedModel("tiny", 1_700_000_000)


def app() -> FastAPI:
    """The application over a service that always answers."""
    service = ScriptedService([plan("direct"), text("Walk."), DONE])
    return create_app(service, Health, [MODEL], facts())


schema = schemathesis.openapi.from_asgi("/openapi.json", app())


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_the_document_allows_is_answered_as_it_says(case: schemathesis.Case) -> None:
    # A schema cannot say what holds between fields (prompt or messages, 128 answers in all).
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


def test_every_body_and_answer_is_described() -> None:
    document = app().openapi()
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        post = document["paths"][path]["post"]
        body = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        described = document["components"]["schemas"][body.rpartition("/")[2]]
        assert described["properties"]
        assert {"200", "400", "404", "413", "415", "429", "503"} <= post["responses"].keys()


def test_every_reference_leads_somewhere() -> None:
    document = app().openapi()
    schemas = document["components"]["schemas"]
    pending, seen = [document["paths"]], set()
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str) and reference not in seen:
                seen.add(reference)
                pending.append(schemas[reference.rpartition("/")[2]])
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    assert len(seen) > 20
