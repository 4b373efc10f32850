"""The fronts of a server: which there are, when others are due, and whether one has hung."""

from __future__ import annotations

import logging
from typing import NamedTuple

from radixmill.observe.pulse import FrontPulse
from radixmill.observe.watch import Watch
from radixmill.supervise.child import Child
from radixmill.supervise.deployment import CRASH_LIMIT, STARTING, STARTING_LOW

log = logging.getLogger("radixmill.supervisor")

# So many stall timeouts, but no fewer seconds, may the event loop of a front stand still. Longer than an engine may: to kill a
# front costs all of its connections, to kill an engine costs a pause. A loop computes nothing for long, but what it has given
# to threads may keep the interpreter from it: a tokenizer at work on a huge prompt, a collection of garbage.
PATIENT = 6
PATIENT_LOW = 30.0


class _Watches(NamedTuple):
    """Of one front."""

    starting: Watch  # as patient as of an engine that starts: it reads a tokenizer, from a disk that may be slow
    serving: Watch


class Fronts:
    """All of them have the same work and the same fate; they differ by the connections that they have taken."""

    def __init__(self, wanted: int, stall_timeout: float) -> None:
        self.wanted, self._stall_timeout = wanted, stall_timeout
        self._watches: dict[Child, _Watches] = {}  # of those that live
        self.restarts: list[float] = []  # monotonic clock: when to start another
        self.ever_up = False  # one has come up
        self.crashes = 0  # deaths in a row, each without having come up

    @property
    def live(self) -> list[Child]:
        return list(self._watches)

    def add(self, front: Child) -> None:
        starting = Watch(max(STARTING * self._stall_timeout, STARTING_LOW))
        self._watches[front] = _Watches(starting, Watch(max(PATIENT * self._stall_timeout, PATIENT_LOW)))

    def remove(self, front: Child) -> None:
        del self._watches[front]

    def clear(self) -> None:
        self._watches.clear()

    @property
    def interval(self) -> float:
        """Seconds until somebody must be looked at."""
        return min((watches.serving.interval for watches in self._watches.values()), default=float("inf"))

    def look(self, now: float) -> None:
        """Kill those whose event loop stands still; the end of their line is heard next. `now` by the monotonic clock."""
        for front, watches in self._watches.items():
            assert isinstance(front.pulse, FrontPulse)
            watch = watches.serving if front.up else watches.starting
            if watch.look(front.pulse.beats, True, now) and not front.verdict:
                why = f"no progress for {watch.patience:g} s"
                log.error("front %d is wedged (%s); killing it", front.number, why)
                front.kill(why)

    def came_up(self, front: Child) -> None:
        """It serves. The last is told that it is."""
        front.up = front.progressed = self.ever_up = True
        if sum(each.up for each in self.live) == self.wanted:
            front.tell(event="all_up")

    def bereave(self, front: Child) -> float | None:
        """It has died. Seconds to wait before another is started; None: never, they die too often."""
        self.crashes = 1 if front.progressed else self.crashes + 1
        if self.crashes >= CRASH_LIMIT:
            return None
        return 0.0 if self.crashes == 1 else 0.1 * 2**self.crashes

    def due(self, now: float) -> int:
        """How many others to start now."""
        late = [at for at in self.restarts if now >= at]
        self.restarts = [at for at in self.restarts if now < at]
        return len(late)
