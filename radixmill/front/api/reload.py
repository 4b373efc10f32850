"""POST /admin/reload: another model takes over, or the same one is read again; and SGLang's way to say it."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from radixmill.core.errors import NotFound, ServeError
from radixmill.front.api.body import Reader
from radixmill.front.api.docs import operation
from radixmill.front.session import Front, Mode, Reloaded


class ReloadBody(Struct, kw_only=True):
    """The body of POST /admin/reload."""

    model: str | None = None
    mode: Mode = "beside"


class UpdateWeightsBody(Struct, kw_only=True):
    """The body of POST /update_weights_from_disk."""

    model_path: str


class Updated(Struct):
    success: bool
    message: str
    num_paused_requests: int = 0


KINDS = (ReloadBody, Reloaded, UpdateWeightsBody, Updated)


def add_reload_routes(app: FastAPI, front: Front) -> None:
    server = front.config.server
    orders = Reader(ReloadBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)
    updates = Reader(UpdateWeightsBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    async def reload(request: Request) -> Response:
        parsed = await orders.read(request)
        return _json(await _reload(front, parsed.body.model, parsed.body.mode), parsed.headers())

    async def update(request: Request) -> Response:
        parsed = await updates.read(request)
        try:
            done = await _reload(front, parsed.body.model_path, "beside")
        except ServeError as error:
            return _json(Updated(False, error.message), parsed.headers(), error.status)
        return _json(Updated(True, f"{done.served.names[0]} is served."), parsed.headers())

    app.add_api_route(
        "/admin/reload",
        reload,
        methods=["POST"],
        **operation("Serve another model, or the same one read again", ReloadBody, Reloaded),
    )
    app.add_api_route(
        "/update_weights_from_disk",
        update,
        methods=["POST"],
        **operation("Serve another model (SGLang's way to say it)", UpdateWeightsBody, Updated),
    )


async def _reload(front: Front, model: str | None, mode: Mode) -> Reloaded:
    if front.reload is None:
        raise NotFound("This server has nobody who could load another model.")
    return await front.reload(model, mode)


def _json(value: Struct, headers: dict[str, str], status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")
