"""Places that owners take in turn: whoever asks much waits behind its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many places at once. A free one goes to the owner who has waited longest since it last got one."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._last: dict[str, int] = {}  # when each owner had its last place, counted in places
        self._given = 0

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        await self._take(owner)
        try:
            yield
        finally:
            self._free += 1
            self._pass_on()

    async def _take(self, owner: str) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(mine)
        self._pass_on()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was given one, and leaves
                self._free += 1
            self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._free and self._waiting:
            owner = min(self._waiting, key=lambda each: self._last.get(each, 0))
            queue = self._waiting.pop(owner)
            while queue and queue[0].done():  # it has left
                queue.popleft()
            if queue:
                queue.popleft().set_result(None)
                self._free -= 1
                self._given += 1
                self._last[owner] = self._given
            if queue:
                self._waiting[owner] = queue
