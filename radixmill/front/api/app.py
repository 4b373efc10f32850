"""The HTTP app. It answers from its first moment; what needs the model says 503 until the model is there."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from radixmill import __version__
from radixmill.core.errors import ServeError
from radixmill.front.api import admin, parsers, reload, tokens
from radixmill.front.api.admin import add_health_routes, add_info_routes, add_order_routes
from radixmill.front.api.anthropic import routes as anthropic
from radixmill.front.api.anthropic.routes import add_anthropic_routes
from radixmill.front.api.docs import describe
from radixmill.front.api.errors import on_http_error, on_serve_error
from radixmill.front.api.guard import Keys, RequestId
from radixmill.front.api.native import routes as native
from radixmill.front.api.native.routes import add_native_routes
from radixmill.front.api.openai import routes
from radixmill.front.api.openai.routes import add_openai_routes
from radixmill.front.api.parsers import add_parser_routes
from radixmill.front.api.reload import add_reload_routes
from radixmill.front.api.tokens import add_token_routes
from radixmill.front.session import Front

__all__ = ["Front", "create_app"]


def create_app(front: Front) -> FastAPI:
    """The app over `front`, whose fields may be filled in while it already answers."""
    app = FastAPI(
        title="RadixMill",
        version=__version__,
        description="Open-weight language models behind the OpenAI API.",
        redirect_slashes=False,
    )
    add_openai_routes(app, front)
    add_native_routes(app, front)
    add_anthropic_routes(app, front)
    add_token_routes(app, front)
    add_parser_routes(app, front)
    add_health_routes(app, front)
    add_info_routes(app, front)
    add_order_routes(app, front)
    add_reload_routes(app, front)
    describe(app, (*routes.KINDS, *anthropic.KINDS, *native.KINDS, *tokens.KINDS, *parsers.KINDS, *admin.KINDS, *reload.KINDS))
    app.add_exception_handler(ServeError, on_serve_error)
    app.add_exception_handler(HTTPException, on_http_error)
    if front.config.server.api_key:
        app.add_middleware(Keys, keys=front.config.server.api_key)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "request-id", "X-RadixMill-Ignored"],
    )
    app.add_middleware(RequestId)  # added last: outermost
    return app
