"""docs/conformance.md: every request field and what is done with it, from the models that check it.

`make docs` writes it; a test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from picert.cloud import openai_refused as refused
from picert.cloud.openai_refused import Neutral
from picert.cloud.openai_schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    PicertOptions,
    TokenizeRequest,
)

_HEAD = """# Conformance

What is done with each field that OpenAI's and vLLM's clients send; `make docs` writes this page
from the models that check requests. What others' clients make of our answers is tested in
`tests/conformance`: the `openai` package, the `llm` command, LiteLLM, and schemathesis against
`/openapi.json`.

A field with a value of another type or outside its range is a 400 that names it. A field that
stands in no list is accepted and ignored, because clients send new ones.
"""
_SERVED: tuple[tuple[str, type[BaseModel]], ...] = (
    ("`POST /v1/chat/completions`", ChatRequest),
    ("`POST /v1/completions`", CompletionRequest),
    ("`POST /tokenize`", TokenizeRequest),
    ("`POST /detokenize`", DetokenizeRequest),
    ("`picert`, our own wishes; an unknown one is refused", PicertOptions),
)
_REFUSED: tuple[tuple[str, Neutral], ...] = (
    ("`POST /v1/chat/completions`", refused.IN_CHAT),
    ("`messages[]`", refused.IN_MESSAGE),
    ("`stream_options`", refused.IN_STREAM_OPTIONS),
    ("`POST /v1/completions`", refused.IN_COMPLETION),
    ("`POST /tokenize`", refused.IN_TOKENIZE),
)


def field_list() -> str:
    """The page."""
    return "\n".join([_HEAD, *_served(), *_refused()])


def _served() -> Iterator[str]:
    for title, model in _SERVED:
        schema = model.model_json_schema()
        yield f"## {title}\n"
        yield "| field | type | what it does |"
        yield "| --- | --- | --- |"
        for name, described in schema["properties"].items():
            kind = _kind(described, schema.get("$defs", {}))
            yield f"| `{name}` | {kind} | {described.get('description', '')} |"
        yield ""


def _refused() -> Iterator[str]:
    yield "## Known and refused\n"
    yield "With any value but those that ask for nothing, these are a 400 with their name.\n"
    for title, fields in _REFUSED:
        yield f"In {title}:\n"
        yield "| field | asks for nothing |"
        yield "| --- | --- |"
        for name, values in fields.items():
            accepted = ", ".join(f"`{json.dumps(value)}`" for value in (None, *values))
            yield f"| `{name}` | {accepted} |"
        yield ""


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in a word or two; that it may be null goes without saying."""
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            kinds = dict.fromkeys(_kind(option, definitions) for option in schema[key])
            return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"array of {_kind(schema['items'], definitions)}"
    return str(schema.get("type", "any"))


if __name__ == "__main__":
    sys.stdout.write(field_list())
