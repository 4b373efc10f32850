"""The fronts of a server: which there are, and when others are due."""

from __future__ import annotations

from radixmill.supervise.child import Child
from radixmill.supervise.deployment import CRASH_LIMIT


class Fronts:
    """All of them have the same work and the same fate; they differ by the connections that they have taken."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.live: list[Child] = []
        self.restarts: list[float] = []  # monotonic clock: when to start another
        self.ever_up = False  # one has come up
        self.crashes = 0  # deaths in a row, each without having come up

    def add(self, front: Child) -> None:
        self.live.append(front)

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
