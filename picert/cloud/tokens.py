"""`POST /tokenize` and `POST /detokenize`: texts and conversations as the served model reads them,
in vLLM's form.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.requests import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from picert.cloud.asking import to_messages, to_tools
from picert.cloud.exchange import Answering, note_header_id, read_body
from picert.cloud.openai_request import parse_detokenize, parse_tokenize
from picert.cloud.openai_response import Detokenized, Tokenized
from picert.cloud.openai_schema import DetokenizeRequest, TokenizeRequest
from picert.cloud.openapi import answers_with, takes
from picert.cloud.tool_calls import convention_of
from picert.errors import InvalidRequest


def add_tokens(app: FastAPI, answering: Answering) -> None:
    """Let `app` count tokens."""
    facts = answering.facts

    @app.post("/tokenize", responses=answers_with(Tokenized), openapi_extra=takes(TokenizeRequest))
    async def tokenize(http: HttpRequest) -> Response:
        """Token ids of a prompt or a conversation."""
        note_header_id(http)
        asked = parse_tokenize(await read_body(http, answering.max_body_bytes))
        answering.model(asked.model)
        ids = _encode(answering, asked)
        body = {"count": len(ids), "max_model_len": facts.max_model_len, "tokens": ids}
        if asked.return_token_strs:
            texts = [facts.tokens.token_bytes(i).decode("utf-8", "replace") for i in ids]
            body["token_strs"] = texts
        return JSONResponse(body)

    @app.post(
        "/detokenize", responses=answers_with(Detokenized), openapi_extra=takes(DetokenizeRequest)
    )
    async def detokenize(http: HttpRequest) -> Response:
        """Text of token ids."""
        note_header_id(http)
        asked = parse_detokenize(await read_body(http, answering.max_body_bytes))
        answering.model(asked.model)
        for token_id in asked.tokens:
            if not 0 <= token_id < facts.tokens.vocab_size:
                raise InvalidRequest(
                    f"tokens holds {token_id}, the model knows 0 to {facts.tokens.vocab_size - 1}",
                    param="tokens",
                )
        text = facts.tokens.decode(asked.tokens, skip_special_tokens=False)
        return JSONResponse({"prompt": text})


def _encode(answering: Answering, asked: TokenizeRequest) -> list[int]:
    """Ids of what was given. Raises InvalidRequest."""
    tokens = answering.facts.tokens
    if asked.prompt is not None:
        encode = tokens.encode_prompt if asked.add_special_tokens else tokens.encode
        return encode(asked.prompt)
    messages = to_messages(asked.messages or ())
    opening = messages.pop().content if asked.continue_final_message else ""
    if asked.tools:
        convention_of(answering.defaults.chat_template)
    return tokens.encode_chat(
        messages,
        add_generation_prompt=asked.add_generation_prompt is not False or bool(opening),
        prefill=opening,
        tools=to_tools(asked.tools),
    )
