"""The OpenAI routes, wired: body → Ask → Generation → answer or stream."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from radixmill.front.api.body import Reader
from radixmill.front.api.desk import Desk
from radixmill.front.api.docs import operation
from radixmill.front.api.errors import ID_KEY
from radixmill.front.api.guard import caller_of, owner_of
from radixmill.front.api.openai import chat, completions, responses, stored
from radixmill.front.api.openai.fields import GenerateBody
from radixmill.front.api.openai.models import Card, Cards, add_model_routes
from radixmill.front.api.openai.stored import StoredChats, add_stored_routes
from radixmill.front.api.openai.wire import TokenBytes
from radixmill.front.api.sse import OPENAI_ENDING, Chunks, Ending, EventStream, started, while_connected
from radixmill.front.session import Ask, Front, Generation, Session
from radixmill.front.session.store import Store

KINDS = (
    chat.ChatBody,
    chat.ChatResponse,
    chat.ChatChunk,
    completions.CompletionBody,
    completions.Completion,
    Card,
    Cards,
    *stored.KINDS,
    *responses.KINDS,
)

Body = TypeVar("Body", bound=GenerateBody)
View = TypeVar("View")
Viewed = TypeVar("Viewed", contravariant=True)


class Keeper(Protocol[Viewed]):
    """Stores answers, each for its owner."""

    def wants(self, view: Viewed) -> bool: ...

    def keep(self, owner: str, view: Viewed, answer: Any) -> None: ...

    def listening(self, owner: str, view: Viewed, chunks: Chunks) -> Chunks:
        """Chunks whose fold is kept when the stream has ended."""


class GenerateRoute(Generic[Body, View]):
    """One POST route that generates text; what differs between them are these functions."""

    def __init__(
        self,
        front: Front,
        reader: Reader[Body],
        to_ask: Callable[[Body, str], Ask],
        view: Callable[[Body, Generation, TokenBytes], View],
        shapes: tuple[Callable[[View], Coroutine[Any, Any, msgspec.Struct]], Callable[[View], Chunks]],
        ending: Ending = OPENAI_ENDING,
        keeper: Keeper[View] | None = None,
    ) -> None:
        """`shapes`: the fold into one answer, and the map into chunks. `keeper`: takes the answers that are to be stored."""
        self.front, self.reader, self.to_ask, self.view = front, reader, to_ask, view
        (self.fold, self.chunks), self.ending, self.keeper = shapes, ending, keeper

    async def __call__(self, request: Request) -> Response:
        self.front.check_room(caller_of(request.scope))
        parsed = await self.reader.read(request)
        session, body = self.front.ready_session(), parsed.body
        ask = self.to_ask(body, body.rid or uuid.uuid4().hex)
        if body.rid:
            request.scope[ID_KEY] = body.rid
        if body.stream:
            generation = await started(request.receive, session.start(ask, caller_of(request.scope)))
            try:
                view = self.view(body, generation, session.text.token_bytes)
                chunks = self.chunks(view)
                if self.keeper and self.keeper.wants(view):
                    chunks = self.keeper.listening(owner_of(request.scope), view, chunks)
                return EventStream(generation, chunks, parsed.headers(), self.ending)
            except BaseException:
                generation.close()
                raise
        answer = await while_connected(request.receive, self._whole(request, session, ask, body))
        return Response(msgspec.json.encode(answer), headers=parsed.headers(), media_type="application/json")

    async def _whole(self, request: Request, session: Session, ask: Ask, body: Body) -> msgspec.Struct:
        generation = await session.start(ask, caller_of(request.scope))
        try:
            view = self.view(body, generation, session.text.token_bytes)
            answer = await self.fold(view)
        finally:
            generation.close()
        if self.keeper and self.keeper.wants(view):
            self.keeper.keep(owner_of(request.scope), view, answer)
        return answer


def add_openai_routes(app: FastAPI, front: Front, desk: Desk) -> None:
    server = front.config.server

    def reader(kind: type[Body]) -> Reader[Body]:
        return Reader(kind, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    store: Store[Any] = Store(entries=server.store_entries, size=server.store_bytes, seconds=server.store_ttl)
    chats = StoredChats(store)
    for_chat = GenerateRoute(
        front, reader(chat.ChatBody), chat.to_ask, chat.ChatView, (chat.fold, chat.ChatChunks), keeper=chats
    )
    for_text = GenerateRoute(
        front,
        reader(completions.CompletionBody),
        completions.to_ask,
        completions.CompletionView,
        (completions.fold, completions.CompletionChunks),
    )

    async def chat_completions(request: Request) -> Response:
        return await for_chat(request)

    async def text_completions(request: Request) -> Response:
        return await for_text(request)

    app.add_api_route(
        "/v1/chat/completions",
        chat_completions,
        methods=["POST"],
        **operation("Answer a conversation", chat.ChatBody, chat.ChatResponse, stream=chat.ChatChunk),
    )
    app.add_api_route(
        "/v1/completions",
        text_completions,
        methods=["POST"],
        **operation("Continue text", completions.CompletionBody, completions.Completion, stream=completions.Completion),
    )
    add_stored_routes(app, server, chats)
    add_model_routes(app, front)
    responses.add_response_routes(app, front, store, desk)
