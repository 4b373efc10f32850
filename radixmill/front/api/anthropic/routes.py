"""Anthropic's routes, wired: body → Ask → Generation → message or stream; and the count of a prompt's tokens."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from radixmill.front.api.anthropic import telling, wire
from radixmill.front.api.anthropic.ask import to_ask, to_prompt
from radixmill.front.api.anthropic.body import CountBody, MessagesBody
from radixmill.front.api.anthropic.errors import ROOT, MessageError
from radixmill.front.api.anthropic.tools import server_tools
from radixmill.front.api.body import MAX_NAMED, NAME_CHARS, Parsed, Reader
from radixmill.front.api.desk import Desk
from radixmill.front.api.docs import operation
from radixmill.front.api.openai.routes import GenerateRoute
from radixmill.front.session import Front, Session

Body = TypeVar("Body", bound=CountBody)


class ToolReader(Reader[Body]):
    """Also names the tools that are dropped, where they are."""

    def parse(self, raw: bytes) -> Parsed[Body]:
        parsed = super().parse(raw)
        dropped = [NAME_CHARS.sub("?", name[:80]) for name in server_tools(parsed.body.tools)]
        return parsed._replace(ignored=(*parsed.ignored, *dropped)[:MAX_NAMED]) if dropped else parsed


KINDS = (MessagesBody, CountBody, wire.MessageAnswer, wire.TokenCount, MessageError, *wire.STREAM)


def add_anthropic_routes(app: FastAPI, front: Front, desk: Desk) -> None:
    server = front.config.server
    drop = server.unsupported_tools == "drop"
    answer = GenerateRoute(
        front,
        ToolReader(MessagesBody, max_bytes=server.max_body_bytes, strict=server.strict_fields),
        partial(to_ask, drop_tools=drop),
        lambda body, generation, _: telling.MessageView(body, generation),
        (telling.fold, telling.MessageChunks),
        telling.ENDING,
    )
    counted = ToolReader(CountBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    async def messages(request: Request) -> Response:
        return await answer(request)

    async def count_tokens(request: Request) -> Response:
        parsed = await counted.read(request)
        session = front.ready_session()
        count = await desk.do(request, lambda: count_of(session, parsed.body, drop))
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
            "Count the tokens of a conversation (Anthropic's API)", CountBody, wire.TokenCount, error=MessageError
        ),
    )


async def count_of(session: Session, body: CountBody, drop: bool) -> wire.TokenCount:
    """Raises ServeError."""
    session.check_model(body.model)
    (ids,) = await session.tokenise((to_prompt(body, drop_tools=drop).prompt,), "messages")
    return wire.TokenCount(len(ids))
