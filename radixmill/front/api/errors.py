"""Errors as HTTP: OpenAI's `{"error": {message, type, param, code}}`, with the right status, and nothing of our insides.

Routes of Anthropic's API say the same in Anthropic's shape.
"""

from __future__ import annotations

import math

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from radixmill.core.errors import EngineFailed, NotFound, RequestTimeout, ServeError, TooLarge, Unauthorized
from radixmill.front.api.anthropic.errors import message_error, speaks_anthropic

ID_KEY = "radixmill.request_id"  # in the ASGI scope; a route may replace it
# Headers of answers that a web page may read.
EXPOSED = ("X-Request-Id", "request-id", "X-RadixMill-Ignored", "Retry-After", "X-Should-Retry")


class MethodNotAllowed(ServeError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


def error_response(error: ServeError, scope: Scope) -> Response:
    """An error in the shape that clients of the path expect."""
    body = message_error(error, scope[ID_KEY]) if speaks_anthropic(scope["path"]) else error.body()
    return Response(msgspec.json.encode(body), error.status, error_headers(error), media_type="application/json")


def internal_error() -> EngineFailed:
    """What a client learns of a bug of ours."""
    return EngineFailed("Something went wrong in the server. The log has the details under this request's id.")


async def on_serve_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServeError)
    return error_response(error, request.scope)


async def on_http_error(request: Request, error: Exception) -> Response:
    """The router's own errors: no such route, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        response = error_response(
            MethodNotAllowed(
                f"{request.method} is not allowed on {request.url.path}; use {allow or 'another method'}."
            ),
            request.scope,
        )
        response.headers["Allow"] = allow
        return response
    if error.status_code == 404:
        return error_response(
            NotFound(f"There is no route {request.method} {request.url.path} here; /docs lists them."), request.scope
        )
    return error_response(internal_error(), request.scope)


def error_headers(error: ServeError) -> dict[str, str]:
    """Headers that go with an error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, RequestTimeout):
        headers["X-Should-Retry"] = "false"  # official clients would repeat a 408
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    return headers
