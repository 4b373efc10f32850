"""Answers that notice when the client leaves, and server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from radixmill.core.errors import ServeError
from radixmill.front.api.errors import error_response, internal_error
from radixmill.front.session import Batch, Event, Generation

log = logging.getLogger("radixmill.front")
T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def sse(chunk: Any) -> bytes:
    """One event of data."""
    return b"data: " + _encode(chunk) + b"\n\n"


def named_sse(name: str, data: Any) -> bytes:
    """One event of data with a name."""
    return b"event: " + name.encode() + b"\n" + sse(data)


def _openai_failed(error: ServeError, scope: Scope) -> bytes:
    return sse(error.body()) + DONE


class Ending(NamedTuple):
    """How an API ends its streams: after the last event, and where one fails on the way."""

    done: bytes
    failed: Callable[[ServeError, Scope], bytes]


OPENAI_ENDING = Ending(DONE, _openai_failed)


class Chunks(Protocol):
    """One API's way to say events."""

    def push(self, events: tuple[Event, ...]) -> bytes:
        """Events as SSE, ready to send; may be empty."""

    def finish(self) -> bytes:
        """What comes after the last event, before the API's own ending."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work` unless the client leaves first: then it is cancelled at once and ClientDisconnect raised.

    The request's body must have been read: from then on `receive` has nothing but the disconnect to tell.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


async def started(receive: Receive, starting: Coroutine[Any, Any, C]) -> C:
    """What `starting` makes, unless the client leaves first; then, whenever that is, it is closed. See while_connected."""
    made: list[C] = []

    async def keep() -> None:
        made.append(await starting)

    try:
        await while_connected(receive, keep())
    except BaseException:
        for each in made:
            each.close()
        raise
    return made[0]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Streams a generation. Nothing is sent before the first event, so what fails until then is an HTTP error."""

    media_type = "text/event-stream"

    def __init__(
        self, generation: Generation | Batch, chunks: Chunks, headers: Mapping[str, str], ending: Ending = OPENAI_ENDING
    ) -> None:
        super().__init__(b"", headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.generation, self.chunks, self.ending = generation, chunks, ending
        self.started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._stream(scope, receive, send))
        finally:
            self.generation.close()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(aiter(self.generation)) as told:
                async for events in told:
                    if data := self.chunks.push(events):
                        await self._send(send, data)
            await self._send(send, self.chunks.finish() + self.ending.done, more=False)
        except Exception as error:
            if not isinstance(error, ServeError):
                log.exception("request %s failed while it was streamed", self.generation.id)
                error = internal_error()
            if not self.started:
                await error_response(error, scope)(scope, receive, send)
            else:
                await self._send(send, self.ending.failed(error, scope), more=False)

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        if not self.started:
            self.started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": data, "more_body": more})
