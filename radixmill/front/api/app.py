"""The HTTP app. It answers from its first moment; what needs the model says 503 until the model is there."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from radixmill import __version__
from radixmill.core.errors import ServeError
from radixmill.front.api import admin, health, parsers, reload, tokens
from radixmill.front.api.admin import add_info_routes, add_order_routes
from radixmill.front.api.anthropic import routes as anthropic
from radixmill.front.api.anthropic.routes import add_anthropic_routes
from radixmill.front.api.desk import Desk
from radixmill.front.api.docs import describe
from radixmill.front.api.errors import EXPOSED, on_http_error, on_serve_error
from radixmill.front.api.guard import Gate, RequestId
from radixmill.front.api.health import add_health_routes
from radixmill.front.api.keys import Keyring, open_keys
from radixmill.front.api.native import routes as native
from radixmill.front.api.native.routes import add_native_routes
from radixmill.front.api.openai import routes
from radixmill.front.api.openai.routes import add_openai_routes
from radixmill.front.api.parsers import add_parser_routes
from radixmill.front.api.reload import add_reload_routes
from radixmill.front.api.tokens import add_token_routes
from radixmill.front.session import Front

BODIES = 16  # of the largest size, that are held at once; of others, as many as make up the same bytes

__all__ = ["Front", "create_app"]


def create_app(front: Front, keys: Keyring | None = None) -> FastAPI:
    """The app over `front`, whose fields may be filled in while it already answers. `keys`: those of the settings, if none
    are given. Raises CannotStart where they cannot be read."""
    app = FastAPI(
        title="RadixMill",
        version=__version__,
        description="Open-weight language models behind the OpenAI API.",
        redirect_slashes=False,
    )
    desk = Desk()
    add_openai_routes(app, front, desk)
    add_native_routes(app, front)
    add_anthropic_routes(app, front, desk)
    add_token_routes(app, front, desk)
    add_parser_routes(app, front, desk)
    add_health_routes(app, front)
    add_info_routes(app, front)
    add_order_routes(app, front)
    add_reload_routes(app, front)
    kinds = (routes, anthropic, native, tokens, parsers, health, admin, reload)
    describe(app, [kind for each in kinds for kind in each.KINDS])
    app.add_exception_handler(ServeError, on_serve_error)
    app.add_exception_handler(HTTPException, on_http_error)
    server = front.config.server
    app.add_middleware(
        Gate,
        keys=keys or open_keys(server),
        routes=app.routes,
        per_key=server.max_requests_per_key,
        body_bytes=BODIES * server.max_body_bytes,
    )
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], expose_headers=list(EXPOSED)
    )
    app.add_middleware(RequestId, log_requests=server.log_requests)  # added last: outermost
    return app
