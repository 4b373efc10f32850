"""The routes under /v1/responses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.types import Receive

from radixmill.core.errors import BadRequest, NotFound
from radixmill.front.api.body import MAX_NAMED, NAME_CHARS, Parsed, Reader
from radixmill.front.api.desk import Desk
from radixmill.front.api.docs import operation
from radixmill.front.api.guard import ID_KEY, caller_of
from radixmill.front.api.openai.paging import Listing, flag, integer, listing, read_paging
from radixmill.front.api.openai.responses import events
from radixmill.front.api.openai.responses.body import PromptBody, ResponseBody, check, check_response
from radixmill.front.api.openai.responses.items import Item, Reading, check_number, read_items
from radixmill.front.api.openai.responses.maker import Maker
from radixmill.front.api.openai.responses.output import Response, begun, request_id
from radixmill.front.api.openai.responses.output import response_id as response_id_of
from radixmill.front.api.openai.responses.prompt import fitted, to_ask, to_prompt
from radixmill.front.api.openai.responses.records import Record, Records
from radixmill.front.api.openai.responses.run import CANCEL_SECONDS, Run, SaidStream, as_sse, made
from radixmill.front.api.openai.responses.tools import Tools, read_tools
from radixmill.front.api.sse import started, while_connected
from radixmill.front.session import Caller, ChatPrompt, Front, Generation, Session
from radixmill.front.session.store import Store


class DeletedResponse(Struct, kw_only=True):
    id: str
    object: str = "response"
    deleted: bool = True


class InputTokens(Struct, kw_only=True):
    object: str = "response.input_tokens"
    input_tokens: int


KINDS = (ResponseBody, PromptBody, Response, DeletedResponse, InputTokens, Listing, events.Created)


class Understood(NamedTuple):
    """What a body says, read through to the last item."""

    items: tuple[Item, ...]  # the whole conversation
    tools: Tools
    ignored: tuple[str, ...]


class Responses:
    """Makes responses, and finds them again."""

    def __init__(self, front: Front, store: Store[Any], desk: Desk) -> None:
        server = front.config.server
        self.front, self.store, self.desk = front, store, desk
        self.strict, self.drop = server.strict_fields, server.unsupported_tools == "drop"
        self.bodies = Reader(ResponseBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)
        self.counts = Reader(PromptBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)
        # Background responses that nobody has been told of: whoever named one may stop it. By owner and the response's id.
        self.preparing: dict[tuple[str, str], Making] = {}

    async def create(self, request: Request) -> HttpResponse:
        self.front.check_room(caller_of(request.scope))
        parsed = await self.bodies.read(request)
        session, body = self.front.ready_session(), parsed.body
        check_response(body)
        records = self.records(request)
        known = self.understand(body, records)
        headers = _noted(parsed, known).headers()
        making = Making(self.front, session, body, known, records, caller_of(request.scope))
        name = body.rid or body.request_id
        if name:
            request.scope[ID_KEY] = name
        id = request_id(name) if name else uuid.uuid4().hex
        if body.background:
            run = await self.detached(making, id)
            return SaidStream(run.follow(-1), headers) if body.stream else _json(run.maker.response, headers)
        if body.stream:
            return await making.streamed(id, headers, request.receive)
        return _json(await while_connected(request.receive, making.whole(id)), headers)

    async def detached(self, making: Making, id: str) -> Run:
        place = (making.caller.owner, response_id_of(id))
        if self.preparing.setdefault(place, making) is not making:
            raise BadRequest(f"A request with the id {id!r} is running already.", param="rid")
        try:
            return await making.detached(id)
        finally:
            del self.preparing[place]

    async def stop_early(self, caller: Caller, response_id: str) -> None:
        """If it is still being prepared in the background: stop it, and wait until it is in the store."""
        if making := self.preparing.get((caller.owner, response_id)):
            await making.stop()

    async def retrieve(self, request: Request, response_id: str) -> HttpResponse:
        record = self.records(request).get(response_id)
        if not flag(request.query_params, "stream"):
            return _json(record.response)
        after = integer(request.query_params, "starting_after", low=0, high=2**53)
        if record.run is None or not record.run.logged:
            raise BadRequest(
                "Only a response that was created with background and stream can be streamed again.", param="stream"
            )
        return SaidStream(record.run.follow(-1 if after is None else after), {})

    async def delete(self, request: Request, response_id: str) -> HttpResponse:
        await self.stop_early(caller_of(request.scope), response_id)
        record = self.records(request).drop(response_id)
        if record.run:
            record.run.generation.abort()
        return _json(DeletedResponse(id=response_id))

    async def cancel(self, request: Request, response_id: str) -> HttpResponse:
        await self.stop_early(caller_of(request.scope), response_id)
        record = self.records(request).get(response_id)
        if record.run is None:
            raise BadRequest("Only a response that was created with background can be cancelled.", param="response_id")
        await record.run.cancel()
        return _json(record.response)

    async def input_items(self, request: Request, response_id: str) -> HttpResponse:
        paging = read_paging(request.query_params, newest_first=True)
        items = self.records(request).get(response_id).items
        return _json(listing(items, [str(item.id) for item in items], paging))

    async def input_tokens(self, request: Request) -> HttpResponse:
        parsed = await self.counts.read(request)
        session, body = self.front.ready_session(), parsed.body
        check(body)
        session.check_model(body.model or "default")
        known = self.understand(body, self.records(request))
        prompt = to_prompt(body, known.items, known.tools)
        ((*ids,),) = await self.desk.do(request, lambda: session.tokenise((prompt,), "input"))
        return _json(InputTokens(input_tokens=len(ids)), _noted(parsed, known).headers())

    def records(self, request: Request) -> Records:
        return Records(self.store, caller_of(request.scope).owner)

    def understand(self, body: PromptBody, records: Records) -> Understood:
        """Raises BadRequest."""
        reading = Reading(strict=self.strict)
        earlier = records.earlier(body.previous_response_id)
        given = body.input if body.input is not None else []
        items = (*earlier, *read_items(given, earlier, records.item, reading))
        check_number(items)
        tools = read_tools(body, reading, drop=self.drop)
        return Understood(items, tools, tuple(reading.ignored))


class Started(NamedTuple):
    """A response whose generation runs."""

    generation: Generation
    maker: Maker

    def close(self) -> None:
        self.generation.close()


class Making:
    """One request on its way to a response, in one of three manners."""

    def __init__(
        self,
        front: Front,
        session: Session,
        body: ResponseBody,
        known: Understood,
        records: Records,
        caller: Caller,
    ) -> None:
        self.front, self.session, self.body, self.known, self.records = front, session, body, known, records
        self.caller = caller
        self._id = ""  # of what is being made in the background
        self._begun = asyncio.Event()  # or it never will
        self._stopped = False
        self._fitting: asyncio.Future[ChatPrompt] | None = None

    async def whole(self, id: str) -> Response:
        """Made while the client waits. Raises ServeError where it fails."""
        generation, maker = await self._start(id)
        try:
            async with aclosing(made(maker, generation, self._keep)) as said:
                async for _ in said:
                    pass
        finally:
            generation.close()
        if maker.failure:
            raise maker.failure
        return maker.response

    async def streamed(self, id: str, headers: dict[str, str], receive: Receive) -> SaidStream:
        generation, maker = await started(receive, self._start(id))
        return SaidStream(as_sse(made(maker, generation, self._keep)), headers, generation.close)

    async def detached(self, id: str) -> Run:
        """Made in the background, to be found in the store at once."""
        self._id = id
        try:
            generation, maker = await self._start(id)
            run = Run(maker, generation, self._renew, logged=bool(self.body.stream))
            self.records.keep(Record(maker.response, self.known.items, run))
            return run
        finally:
            self._begun.set()

    async def stop(self) -> None:
        """Stop what is being prepared, and wait a while until it is kept."""
        self._stopped = True
        if self._fitting:
            self._fitting.cancel()
        self.session.abort_one(self._id, self.caller)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._begun.wait(), CANCEL_SECONDS)

    async def _start(self, id: str) -> Started:
        body, session = self.body, self.session
        session.check_model(body.model or "default")
        session.door.check(self.records.owner)  # fitting may tokenise more than once
        ask = to_ask(body, id, await self._fitted(), self.known.tools)
        generation = session.stopped(ask, self.caller) if self._stopped else await session.start(ask, self.caller)
        try:
            return Started(generation, self._maker(generation))
        except BaseException:
            generation.close()
            raise

    async def _fitted(self) -> ChatPrompt:
        """The prompt, which may take long; if that is stopped, as it is."""
        body, known = self.body, self.known
        work = self._fitting = asyncio.ensure_future(
            fitted(self.session, body, known.items, known.tools, body.max_output_tokens)
        )
        try:
            await asyncio.wait({work})
        finally:
            work.cancel()
        return to_prompt(body, known.items, known.tools) if work.cancelled() else work.result()

    def _maker(self, generation: Generation) -> Maker:
        body, session = self.body, self.session
        return Maker(
            begun(body, self.known.tools, generation.facts, session.defaults),
            generation,
            session.text.token_bytes,
            logprobs=body.wants_logprobs,
            keeps_prefix=self.front.config.cache.prefix_cache,
        )

    def _keep(self, response: Response) -> None:
        if self.body.stays:
            self.records.keep(Record(response, self.known.items))

    def _renew(self, response: Response) -> None:
        """A background response is kept from its beginning; now its size is known. One that was deleted stays so."""
        record = self.records.store.get(self.records.owner, response.id)
        if isinstance(record, Record):
            self.records.keep(record)


def add_response_routes(app: FastAPI, front: Front, store: Store[Any], desk: Desk) -> None:
    routes = Responses(front, store, desk)
    one = "/v1/responses/{response_id}"
    table: tuple[tuple[str, str, Callable[..., Any], dict[str, Any]], ...] = (
        ("POST", "/v1/responses/input_tokens", routes.input_tokens, operation("Count", PromptBody, InputTokens)),
        (
            "POST",
            "/v1/responses",
            routes.create,
            operation("Go on with a conversation", ResponseBody, Response, stream=events.Created),
        ),
        ("GET", one, routes.retrieve, operation("A kept response", None, Response)),
        ("DELETE", one, routes.delete, operation("Forget a response", None, DeletedResponse)),
        ("POST", one + "/cancel", routes.cancel, operation("Stop a background response", None, Response)),
        ("GET", one + "/input_items", routes.input_items, operation("What a response answers", None, Listing)),
    )
    for method, path, endpoint, about in table:
        app.add_api_route(path, endpoint, methods=[method], **about)
    app.add_api_route("/v1/responses/compact", _compact, methods=["POST"], include_in_schema=False)


async def _compact() -> HttpResponse:
    raise NotFound("This server does not compact conversations; truncation may be auto.")


def _noted(parsed: Parsed[Any], known: Understood) -> Parsed[Any]:
    """With what was ignored inside items and tools."""
    more = dict.fromkeys(NAME_CHARS.sub("?", name[:80]) for name in known.ignored)
    return parsed._replace(ignored=tuple(dict.fromkeys((*parsed.ignored, *more)))[:MAX_NAMED])


def _json(value: Struct, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(value), headers=headers, media_type="application/json")
