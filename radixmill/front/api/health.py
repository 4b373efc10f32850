"""Health: whether the process answers, whether a request would be served, whether a token can be had.

None but /health_generate asks the engine: a wedged one would not answer, and a load balancer must hear so in time.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Literal

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from radixmill.core.errors import NotReady, Overloaded
from radixmill.front.api.docs import operation
from radixmill.front.api.errors import error_headers
from radixmill.front.api.guard import is_stranger
from radixmill.front.api.sse import while_connected
from radixmill.front.session import Ask, Caller, Condition, Front, Sampling, Session, TokenPrompt, gather, not_ready
from radixmill.front.session.limits import RANGES
from radixmill.link.client import State

PROBE_SECONDS = 20.0
MAX_PROBES = 8  # at a time: nobody needs a key for them
PROBE = Caller("health", admin=True)  # an owner that no key has: its prefixes are met by nobody else


class Alive(Struct):
    """The process answers."""

    alive: bool = True


class Brief(Struct):
    """How a server is, as those hear who have no key where one is needed: how much others have it do is not for them."""

    ready: bool
    reason: str
    state: State | Literal["stalled"]


KINDS = (Alive, Condition, Brief)


def add_health_routes(app: FastAPI, front: Front) -> None:
    async def live() -> Response:
        return Response(msgspec.json.encode(Alive()), media_type="application/json")

    async def ready(request: Request) -> Response:
        return told(front.condition(), brief=is_stranger(request.scope))

    probing: set[Request] = set()

    async def generate(request: Request) -> Response:
        if len(probing) >= MAX_PROBES:
            raise Overloaded("The server is being asked this by others already.", retry_after=1.0)
        probing.add(request)
        try:
            await while_connected(request.receive, probe(front))
        finally:
            probing.discard(request)
        return Response()

    for path, endpoint, summary, kind in (
        ("/live", live, "The process answers", Alive),
        ("/ready", ready, "A request sent now would be served at once", (Condition, Brief)),
        ("/health", ready, "The process answers, and a request sent now would be served at once", (Condition, Brief)),
        ("/health_generate", generate, "One token was generated just now", None),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], operation_id=path[1:], **operation(summary, None, kind))
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


def told(condition: Condition, *, brief: bool) -> Response:
    """200 or 503, with the facts in both cases; a 503 is an error in OpenAI's shape besides."""
    facts = msgspec.to_builtins(Brief(condition.ready, condition.reason, condition.state) if brief else condition)
    if condition.ready:
        return Response(msgspec.json.encode(facts), media_type="application/json")
    error = not_ready(condition)
    body = {**error.body(), **facts}
    return Response(msgspec.json.encode(body), error.status, error_headers(error), media_type="application/json")


async def probe(front: Front) -> None:
    """Generate one token, within PROBE_SECONDS, before and beside what waits. Raises ServeError."""
    serving = front.ready_session()
    beside = Session(serving.text, serving.client, serving.served)  # with a door of its own: a full house is not ill
    ask = Ask(
        id=f"health-{uuid.uuid4().hex}",
        model="default",
        prompts=(TokenPrompt((0,)),),
        max_tokens=1,
        sampling=Sampling(temperature=0.0, ignore_eos=True),
        priority=int(RANGES["priority"].high or 0),
    )
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            generation = await beside.start(ask, PROBE)
            try:
                await gather(generation)
            finally:
                generation.close()
    except TimeoutError:
        reason = front.condition().reason or f"No token came within {PROBE_SECONDS:g} seconds."
        raise NotReady(reason, retry_after=1.0) from None
