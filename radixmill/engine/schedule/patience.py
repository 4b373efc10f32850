"""How long requests may wait for their first step. Of the monotonic clock: nobody can set it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from radixmill.engine.schedule.sequence import Sequence


class _Wait(NamedTuple):
    """A request of which nothing has begun."""

    until: float
    seqs: dict[Sequence, None]


class Patience:
    """Once one of its sequences has begun, a request waits no longer, however long the others take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._waits: dict[int, _Wait] = {}  # by the identity of the request, which its sequences keep alive
        self._next = math.inf  # nobody's time is up before

    def add(self, seq: Sequence) -> None:
        """It begins to wait, if its request says for how long at most."""
        if seq.request.wait is None:
            return
        until = self.clock() + seq.request.wait
        wait = self._waits.setdefault(id(seq.request), _Wait(until, {}))
        wait.seqs[seq] = None
        self._next = min(self._next, wait.until)

    def met(self, seq: Sequence) -> None:
        """Its request has begun."""
        self._waits.pop(id(seq.request), None)

    def forget(self, seq: Sequence) -> None:
        """It has ended."""
        if wait := self._waits.get(id(seq.request)):
            wait.seqs.pop(seq, None)
            if not wait.seqs:
                del self._waits[id(seq.request)]

    def due(self) -> list[Sequence]:
        """Those whose time is up, taken off the list."""
        now = self.clock()
        if now < self._next:
            return []
        late = [key for key, wait in self._waits.items() if wait.until <= now]
        found = [seq for key in late for seq in self._waits.pop(key).seqs]
        self._next = min((wait.until for wait in self._waits.values()), default=math.inf)
        return found

    def left(self) -> float | None:
        """Seconds until somebody's time may be up; None if nobody's ever is."""
        return max(self._next - self.clock(), 0.0) if self._waits else None
