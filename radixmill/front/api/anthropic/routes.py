"""Anthropic's routes, wired: body → Ask → Generation → message or stream; and the count of a prompt's tokens."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from radixmill.front.api.anthropic import telling, wire
from radixmill.front.api.anthropic.ask import to_ask, to_prompt
from radixmill.front.api.anthropic.body import MessagesBody, PromptBody
from radixmill.front.api.anthropic.errors import ROOT, MessageError
from radixmill.front.api.body import Reader
from radixmill.front.api.docs import operation
from radixmill.front.api.openai.routes import GenerateRoute
from radixmill.front.session import Front, Session

KINDS = (MessagesBody, PromptBody, wire.MessageAnswer, wire.TokenCount, MessageError, *wire.STREAM)


def add_anthropic_routes(app: FastAPI, front: Front) -> None:
    server = front.config.server
    answer = GenerateRoute(
        front,
        MessagesBody,
        to_ask,
        lambda body, generation, _: telling.MessageView(body, generation),
        (telling.fold, telling.MessageChunks),
        telling.ENDING,
    )
    counted = Reader(PromptBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    async def messages(request: Request) -> Response:
        return await answer(request)

    async def count_tokens(request: Request) -> Response:
        parsed = await counted.read(request)
        count = await count_of(front.ready_session(), parsed.body)
        return Response(msgspec.json.encode(count), headers=parsed.headers(), media_type="application/json")

    app.add_api_route(
        ROOT,
        messages,
        methods=["POST"],
        **operation(
            "Answer a conversation (Anthropic's API)",
            MessagesBody,
            wire.MessageAnswer,
            stream=(*wire.STREAM, MessageError),
            error=MessageError,
        ),
    )
    app.add_api_route(
        f"{ROOT}/count_tokens",
        count_tokens,
        methods=["POST"],
        **operation(
            "Count the tokens of a conversation (Anthropic's API)", PromptBody, wire.TokenCount, error=MessageError
        ),
    )


async def count_of(session: Session, body: PromptBody) -> wire.TokenCount:
    """Raises ServeError."""
    session.check_model(body.model)
    (ids,) = await session.tokenise((to_prompt(body).prompt,), "messages")
    return wire.TokenCount(len(ids))
