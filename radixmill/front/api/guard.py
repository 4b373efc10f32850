"""The outermost layer of the app: request ids, keys, and the last word on errors. Plain ASGI, no per-request tasks."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import uuid

from msgspec.structs import replace
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radixmill.core.errors import ServeError, Unauthorized
from radixmill.front.api.anthropic.errors import speaks_anthropic
from radixmill.front.api.errors import ID_KEY, error_response, internal_error
from radixmill.front.session import Ask
from radixmill.front.session.limits import SIZES

log = logging.getLogger("radixmill.front")

OPEN_ROUTES = ("/health", "/health_generate", "/live", "/ready")
OWNER_KEY = "radixmill.owner"  # in the ASGI scope, where there are keys: whose request this is
_SAFE_ID = re.compile(rf"[!-~]{{1,{int(SIZES['request id header'].high or 0)}}}")


class RequestId:
    """Gives each request an id and its answer the header X-Request-Id; turns what nobody caught into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope[ID_KEY] = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        answer = _Answer(scope, send)
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            log.debug("request %s: the client left", scope[ID_KEY])
        except Exception:
            log.exception("request %s failed: %s %s", scope[ID_KEY], scope["method"], scope["path"])
            if not answer.started:
                await error_response(internal_error(), scope)(scope, receive, answer.send)


class _Answer:
    """`send` that adds the request id to the response's head."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send, self.started = scope, send, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.scope[ID_KEY]
            if speaks_anthropic(self.scope["path"]):
                headers["request-id"] = self.scope[ID_KEY]  # the name that its clients read
        await self._send(message)


class Keys:
    """Lets a request in if it carries one of the keys, as a bearer token or as x-api-key."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_ROUTES:
            await self.app(scope, receive, send)
            return
        try:
            scope[OWNER_KEY] = self._check(Headers(scope=scope))
        except ServeError as error:
            await error_response(error, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check(self, headers: Headers) -> str:
        """The key's digest, in hexadecimal. Raises Unauthorized."""
        key = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        if not key:
            raise Unauthorized("No API key was given; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.")
        digest = _digest(key.encode("latin-1"))  # as ASGI decoded it: the bytes that were sent
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):  # looks at every key, always
            raise Unauthorized("This API key is not valid here.")
        return digest.hex()


def owner_of(scope: Scope) -> str:
    """Who sent a request, as far as keys tell; "" on a server without keys."""
    return str(scope.get(OWNER_KEY, ""))


def charged(ask: Ask, scope: Scope) -> Ask:
    """An Ask on the account of who sent it."""
    return replace(ask, account=owner_of(scope))


def _bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
