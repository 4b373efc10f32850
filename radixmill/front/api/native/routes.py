"""POST (and PUT) /generate, wired: body → items → batch → answer or stream."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from fastapi import FastAPI
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from radixmill.front.api.body import Reader
from radixmill.front.api.docs import operation
from radixmill.front.api.guard import ID_KEY, caller_of
from radixmill.front.api.sse import EventStream, sse, started, while_connected
from radixmill.front.session import Batch, Caller, Event, Front, Session
from radixmill.front.session.native import Answers, GenerateBody, Generated, Item, start, to_items
from radixmill.front.session.native.items import is_batch

KINDS = (GenerateBody, Generated)


class NativeChunks:
    """Events → one chunk for each choice that they are about: all it has said so far, or what is new."""

    def __init__(self, answers: Answers, *, numbered: bool) -> None:
        self.answers, self.numbered = answers, numbered

    def push(self, events: tuple[Event, ...]) -> bytes:
        return b"".join(sse(self._chunk(choice)) for choice in self.answers.push(events))

    def finish(self) -> bytes:
        return b""

    def _chunk(self, choice: int) -> Generated:
        answer = self.answers.answer(choice)
        return replace(answer, index=choice) if self.numbered else answer


class NativeRoute:
    """What answers /generate."""

    def __init__(self, front: Front) -> None:
        server = front.config.server
        self.front, self.incremental = front, server.incremental_streaming_output
        self.reader = Reader(GenerateBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    async def __call__(self, request: Request) -> Response:
        self.front.check_room(caller_of(request.scope))
        parsed = await self.reader.read(request)
        session, body, caller = self.front.ready_session(), parsed.body, caller_of(request.scope)
        items = to_items(body)
        if isinstance(body.rid, str):
            request.scope[ID_KEY] = body.rid
        if body.stream:
            batch = await started(request.receive, start(session, items, caller))
            try:
                return EventStream(batch, self._chunks(body, items, batch, session), parsed.headers())
            except BaseException:
                batch.close()
                raise
        found = await while_connected(request.receive, whole(session, items, caller))
        content = msgspec.json.encode(found if _listed(body, items) else found[0])
        return Response(content, headers=parsed.headers(), media_type="application/json")

    def _chunks(self, body: GenerateBody, items: Sequence[Item], batch: Batch, session: Session) -> NativeChunks:
        wanted = body.incremental_streaming_output
        answers = Answers(
            items, batch, session.text.token_bytes, incremental=self.incremental if wanted is None else wanted
        )
        return NativeChunks(answers, numbered=_listed(body, items))


def _listed(body: GenerateBody, items: Sequence[Item]) -> bool:
    """Whether there are several answers."""
    return is_batch(body) or items[0].ask.n > 1


async def whole(session: Session, items: Sequence[Item], caller: Caller) -> list[Generated]:
    """Every answer, prompt-major."""
    batch = await start(session, items, caller)
    try:
        answers = Answers(items, batch, session.text.token_bytes)
        async for events in batch:
            answers.push(events)
        return [answers.answer(choice) for choice in range(len(answers.said))]
    finally:
        batch.close()


def add_native_routes(app: FastAPI, front: Front) -> None:
    route = NativeRoute(front)

    async def generate(request: Request) -> Response:
        return await route(request)

    shown = operation("Continue text, in SGLang's shape", GenerateBody, Generated, stream=Generated)
    app.add_api_route("/generate", generate, methods=["POST"], **shown)
    app.add_api_route("/generate", generate, methods=["PUT"], include_in_schema=False)
