"""Information, and the few orders that are not about one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from radixmill import __version__
from radixmill.core.errors import BadRequest, NotFound
from radixmill.front.api.body import Reader
from radixmill.front.api.docs import operation
from radixmill.front.api.guard import caller_of
from radixmill.front.api.sse import while_connected
from radixmill.front.session import Caller, Front
from radixmill.front.session.info import engine_stats, model_info, server_info
from radixmill.front.session.receipt import key_id, public_pem

ID_PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "msg_")


class AbortBody(Struct, kw_only=True):
    """The body of POST /abort_request."""

    rid: str = ""
    abort_all: bool = False


class Aborted(Struct):
    aborted: int


class Flushed(Struct):
    success: bool
    message: str


class ReceiptKey(Struct):
    """`key`: its id; `pem`: SubjectPublicKeyInfo."""

    key: str
    algorithm: str
    pem: str


KINDS = (AbortBody, Aborted, Flushed, ReceiptKey)


def add_info_routes(app: FastAPI, front: Front) -> None:
    _add_get(app, ("/version",), lambda: {"version": __version__}, "The server's version")
    _add_get(app, ("/model_info", "/get_model_info"), lambda: model_info(front), "The model")

    async def info() -> Response:
        return _json({**server_info(front), "internal_states": await engine_stats(front)})

    async def receipt_key() -> Response:
        return _json(public_key(front))

    shown = operation("The public key that receipts are signed with", None, ReceiptKey)
    app.add_api_route("/receipt_key", receipt_key, methods=["GET"], **shown)

    for path in ("/server_info", "/get_server_info"):
        shown = operation("Settings, and why; the engine's counters", None, None)
        app.add_api_route(path, info, methods=["GET"], operation_id=path[1:], **shown)


def public_key(front: Front) -> ReceiptKey:
    """Raises ServeError."""
    notary = front.ready_session().notary
    if notary is None:
        raise NotFound("This server signs no receipts.")
    key = notary.private_key().public_key()
    return ReceiptKey(key_id(key), "Ed25519", public_pem(key))


def add_order_routes(app: FastAPI, front: Front) -> None:
    aborts = Reader(AbortBody, max_bytes=front.config.server.max_body_bytes, strict=front.config.server.strict_fields)

    async def flush_cache(request: Request) -> Response:
        front.ready_session()
        assert front.client is not None
        await while_connected(request.receive, front.client.control("flush_cache"))
        return _json(Flushed(True, "The prefix cache is empty."))

    async def abort_request(request: Request) -> Response:
        parsed = await aborts.read(request)
        body = parsed.body
        if not _bare(body.rid) and not body.abort_all:
            raise BadRequest("rid must be the id of a request, or abort_all true.", param="rid")
        if front.session is None:
            front.ready_session()
        return _json(Aborted(_abort(front, body, caller_of(request.scope))))

    app.add_api_route(
        "/flush_cache", flush_cache, methods=["POST"], **operation("Empty the prefix cache", None, Flushed)
    )
    app.add_api_route(
        "/abort_request",
        abort_request,
        methods=["POST"],
        **operation("Stop the requests whose id begins with rid, or all", AbortBody, Aborted),
    )


def _abort(front: Front, body: AbortBody, caller: Caller) -> int:
    """In whatever state: what was taken can be stopped. A client may have named its request as responses are named."""
    stopped = front.abort(_bare(body.rid), caller, everything=body.abort_all)
    if body.abort_all or _bare(body.rid) == body.rid:
        return stopped
    return stopped + front.abort(body.rid, caller)


def _bare(id: str) -> str:
    """A request's id out of a response's."""
    return next((id[len(prefix) :] for prefix in ID_PREFIXES if id.startswith(prefix)), id)


def _add_get(app: FastAPI, paths: tuple[str, ...], make: Callable[[], dict[str, Any]], summary: str) -> None:
    async def endpoint() -> Response:
        return _json(make())

    for path in paths:
        app.add_api_route(path, endpoint, methods=["GET"], operation_id=path[1:], **operation(summary, None, None))


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
