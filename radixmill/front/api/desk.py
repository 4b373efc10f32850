"""Work with text that no answer of a model comes of: tokens counted, texts parsed. It takes no place in the queue, so there is
little of it at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from starlette.requests import Request

from radixmill.front.api.guard import owner_of
from radixmill.front.api.sse import while_connected

T = TypeVar("T")

AT_ONCE = 2  # of an owner


class Desk:
    """Of one app. The others of an owner wait; who leaves waits no more, but what has begun ends before another begins."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._begun: set[asyncio.Future[Any]] = set()

    async def do(self, request: Request, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` gives. The request's body must have been read. Raises ClientDisconnect."""
        return await while_connected(request.receive, self._in_turn(owner_of(request.scope), work))

    async def _in_turn(self, owner: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        turns = self._turns.setdefault(owner, asyncio.Semaphore(AT_ONCE))
        await turns.acquire()
        task = asyncio.ensure_future(work())  # threads cannot be stopped: it keeps its turn when nobody waits any more
        self._begun.add(task)

        def over(_: asyncio.Future[T]) -> None:
            turns.release()
            self._begun.discard(task)
            if not task.cancelled():
                task.exception()  # told, if only to nobody

        task.add_done_callback(over)
        return await asyncio.shield(task)
