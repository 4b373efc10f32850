"""The outermost layer of the app: request ids, keys, and the last word on errors. Plain ASGI, no per-request tasks."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radixmill.core.errors import Forbidden, NotFound, Overloaded, ServeError, Unauthorized
from radixmill.front.api.anthropic.errors import speaks_anthropic
from radixmill.front.api.errors import ID_KEY, error_response, internal_error
from radixmill.front.api.keys import Keyring
from radixmill.front.session import ANYONE, Caller, Meter
from radixmill.front.session.door import Drain
from radixmill.front.session.limits import SIZES

log = logging.getLogger("radixmill.front")

OPEN_ROUTES = ("/health", "/health_generate", "/live", "/ready")
# Orders about the server, or about what others have on it: they need the admin key where there is one.
ADMIN_ROUTES = ("/admin/", "/flush_cache", "/abort_request", "/update_weights_from_disk")
CALLER_KEY = "radixmill.caller"  # in the ASGI scope: whose request this is
STRANGER_KEY = "radixmill.stranger"  # in the ASGI scope: who sent it has no key, where there are some
METER_KEY = "radixmill.meter"  # in the ASGI scope, where requests are logged
# No route has any. The router's patterns end with `$`, which a line feed may follow: what it matches, we would not know.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_SAFE_ID = re.compile(rf"[!-~]{{1,{int(SIZES['request id header'].high or 0)}}}")


class RequestId:
    """Gives each request an id and its answer the header X-Request-Id; turns what nobody caught into a 500."""

    def __init__(self, app: ASGIApp, *, log_requests: bool = False) -> None:
        """`log_requests`: a line for each, without a word of what it says."""
        self.app, self.log_requests = app, log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope[ID_KEY] = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        answer, began = _Answer(scope, send), time.monotonic()
        if self.log_requests:
            scope[METER_KEY] = Meter()
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            log.debug("request %s: the client left", scope[ID_KEY])
        except Exception:
            log.exception("request %s failed: %s %s", scope[ID_KEY], scope["method"], _route(scope))
            if not answer.started:
                await error_response(internal_error(), scope)(scope, receive, answer.send)
        finally:
            if self.log_requests and scope["path"] not in OPEN_ROUTES:
                _log_request(scope, answer.status, time.monotonic() - began)


def _log_request(scope: Scope, status: int | None, seconds: float) -> None:
    meter: Meter = scope[METER_KEY]
    log.info(
        "request %s: %s %s, key %s, status %s, tokens %d + %d, %.3f s",
        scope[ID_KEY],
        scope["method"],
        _route(scope),
        caller_of(scope).owner[:8] or "none",
        status or "none: the client left",
        meter.prompt,
        meter.completion,
        seconds,
    )


def _route(scope: Scope) -> str:
    """The route's own spelling: a path may have in it what a client made up."""
    return str(getattr(scope.get("route"), "path", "an unknown path"))


class _Answer:
    """`send` that adds the request id to the response's head."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.status: int | None = None

    @property
    def started(self) -> bool:
        return self.status is not None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.scope[ID_KEY]
            if speaks_anthropic(self.scope["path"]):
                headers["request-id"] = self.scope[ID_KEY]  # the name that its clients read
        await self._send(message)


class Gate:
    """Lets a request in if it carries a key for its route, as a bearer token or as x-api-key; and knows whose it is.

    Without keys everybody is let in, but no web page gives orders: a browser sends them for any page that it shows.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keyring,
        *,
        routes: Sequence[BaseRoute] = (),
        per_key: int = 0,
        body_bytes: int = 1 << 40,
    ) -> None:
        """`routes`: those of the router behind us. `per_key`: most requests that a key may have open at once; 0: any number.
        `body_bytes`: of the bodies of all requests that are open."""
        self.app, self.keys, self.per_key = app, keys, per_key
        self.bodies = Drain(body_bytes, time.monotonic)
        self._orders = [route for route in routes if isinstance(route, Route) and is_admin_route(route.path)]
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            caller = self._admit(scope, Headers(scope=scope))
            counted = self._enter(caller) if scope["path"] not in OPEN_ROUTES else ""
        except ServeError as error:
            await error_response(error, scope)(scope, receive, send)
            return
        scope[CALLER_KEY] = Caller(caller.owner, caller.admin, scope.get(METER_KEY))
        body = _Weighed(receive, self.bodies, caller.owner)
        try:
            await self.app(scope, body.receive, send)
        finally:
            body.release()
            self._leave(counted)

    def _admit(self, scope: Scope, headers: Headers) -> Caller:
        """Raises Unauthorized, Forbidden, NotFound."""
        if _CONTROLS.search(path := scope["path"]):
            raise NotFound("No route here has such characters in its path.")
        key = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        known = self.keys.caller(key.encode("latin-1")) if key else None  # as ASGI decoded it: the bytes that were sent
        caller = known or self.keys.stranger()
        if path in OPEN_ROUTES:
            scope[STRANGER_KEY] = caller is None
            return known or ANYONE
        if self._is_order(scope):
            return self._admit_order(caller, bool(key), "origin" in headers)
        if caller is None:
            raise _unauthorized(bool(key))
        return caller

    def _is_order(self, scope: Scope) -> bool:
        """Asks the routes themselves, too: what they match is what will be done."""
        return is_admin_route(scope["path"]) or any(route.matches(scope)[0] is not Match.NONE for route in self._orders)

    def _admit_order(self, caller: Caller | None, given: bool, from_page: bool) -> Caller:
        if self.keys.admins:
            if caller is None or not caller.owner:
                raise _unauthorized(given)
            if not caller.admin:
                raise Forbidden("This route needs the admin key.")
        elif caller is None:
            raise _unauthorized(given)
        elif not caller.owner and from_page:
            raise Forbidden("A server without keys takes no orders from web pages.")
        return caller

    def _enter(self, caller: Caller) -> str:
        """Raises Overloaded. Returns what `_leave` is to be told."""
        if not self.per_key or not caller.owner or caller.admin:
            return ""
        if self._open[caller.owner] >= self.per_key:
            raise Overloaded(
                f"This key has its limit of {self.per_key} requests open at once. Try again shortly.", retry_after=1.0
            )
        self._open[caller.owner] += 1
        return caller.owner

    def _leave(self, owner: str) -> None:
        if owner:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]


class _Weighed:
    """`receive` that counts a body among those that are held. What is read of it, we hold until its request is over."""

    def __init__(self, receive: Receive, bodies: Drain, account: str) -> None:
        self._receive, self._bodies, self._account = receive, bodies, account
        self._bytes = 0

    async def receive(self) -> Message:
        """Raises Overloaded."""
        message = await self._receive()
        if size := len(message.get("body", b"")):
            if not self._bodies.fits(size, self._account):
                raise Overloaded(
                    "The bodies of the requests that are open are as large as this server takes. Try again shortly.",
                    retry_after=self._bodies.seconds_until(size),
                )
            self._bodies.add(size, self._account)
            self._bytes += size
        return message

    def release(self) -> None:
        if self._bytes:
            self._bodies.remove(self._bytes, self._account)


def is_admin_route(path: str) -> bool:
    return path.startswith(ADMIN_ROUTES[0]) or path in ADMIN_ROUTES


def caller_of(scope: Scope) -> Caller:
    """Who sent a request, as far as keys tell."""
    caller = scope.get(CALLER_KEY, ANYONE)
    assert isinstance(caller, Caller)
    return caller


def is_stranger(scope: Scope) -> bool:
    """Whether an open route is asked by someone who may use no other."""
    return bool(scope.get(STRANGER_KEY))


def owner_of(scope: Scope) -> str:
    """Whose a request is; "" on a server without keys."""
    return caller_of(scope).owner


def _unauthorized(given: bool) -> Unauthorized:
    if given:
        return Unauthorized("This API key is not valid here.")
    return Unauthorized("No API key was given; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.")


def _bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
