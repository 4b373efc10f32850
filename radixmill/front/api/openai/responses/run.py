"""A response while it is being made: the loop that makes it, one that goes on without listeners, and its way out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing

from starlette.responses import Response as HttpResponse
from starlette.types import Receive, Scope, Send

from radixmill.core.errors import ServeError
from radixmill.front.api.errors import internal_error
from radixmill.front.api.openai.responses.events import to_sse
from radixmill.front.api.openai.responses.maker import Maker, Said
from radixmill.front.api.openai.responses.output import Response
from radixmill.front.api.sse import while_connected
from radixmill.front.session import Generation

log = logging.getLogger("radixmill.front")
LIVE = ("queued", "in_progress")
CANCEL_SECONDS = 5.0


async def made(maker: Maker, generation: Generation, keep: Callable[[Response], None]) -> AsyncGenerator[Said, None]:
    """Everything that is said of a response, from its creation to its end; `keep` gets it before the end is told."""
    try:
        yield maker.start()
        async for events in generation:
            said = maker.push(events)
            if maker.base.status not in LIVE:
                keep(maker.response)
            if said:
                yield said
    except Exception as error:
        said = maker.fail(_known(error, generation.facts.id))
        keep(maker.response)
        yield said
    finally:
        generation.close()


def _known(error: Exception, id: str) -> ServeError:
    if isinstance(error, ServeError):
        return error
    log.error("response %s failed", id, exc_info=error)
    return internal_error()


async def as_sse(said: AsyncGenerator[Said, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(said):
        async for events in said:
            yield b"".join(map(to_sse, events))


class Run:
    """A response that is made whether or not anyone listens. Its events, if they are `logged`, can be heard again."""

    def __init__(self, maker: Maker, generation: Generation, keep: Callable[[Response], None], *, logged: bool) -> None:
        self.maker, self.generation, self.logged = maker, generation, logged
        self.events: list[bytes] = []  # by sequence_number
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._work(made(maker, generation, keep)))
        self._task.add_done_callback(lambda task: self._tell())

    @property
    def over(self) -> bool:
        return self._task.done()

    async def _work(self, said: AsyncGenerator[Said, None]) -> None:
        async with aclosing(said):
            async for events in said:
                if self.logged:
                    self.events.extend(map(to_sse, events))
                    self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Events whose number is above `after`, as they come."""
        at = after + 1
        while True:
            while at < len(self.events):
                yield self.events[at]
                at += 1
            if self.over:
                return
            await self._news.wait()

    async def cancel(self) -> None:
        """Stop, and wait a while for the end."""
        self.generation.abort()
        await asyncio.wait({self._task}, timeout=CANCEL_SECONDS)


class SaidStream(HttpResponse):
    """Sends bytes as they come. When all are sent, or the client leaves, whoever makes them is closed, and `on_close`
    called: a generator that never began has nothing to close."""

    media_type = "text/event-stream"

    def __init__(
        self, said: AsyncGenerator[bytes, None], headers: Mapping[str, str], on_close: Callable[[], None] | None = None
    ) -> None:
        super().__init__(b"", headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.said, self.on_close = said, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.said):
                await while_connected(receive, self._stream(self.said, send))
        finally:
            if self.on_close:
                self.on_close()

    async def _stream(self, said: AsyncIterator[bytes], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in said:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
