"""When is a process wedged? It has something to do, and its counter of things done stands still."""

from __future__ import annotations


class Watch:
    """Looks at one process's counter again and again, with its own absences left out: a suspended laptop, a machine too busy
    to run us, and a stopped supervisor are no fault of the one looked at."""

    def __init__(self, patience: float) -> None:
        """`patience`: seconds without progress that are a stall."""
        self.patience = patience
        self.interval = min(max(patience / 20, 0.02), 0.5)  # seconds between looks
        self.begin()

    def begin(self) -> None:
        """Another process is looked at from now on."""
        self._beats = -1
        self._still = 0.0
        self._looked: float | None = None

    def look(self, beats: int, busy: bool, now: float) -> bool:
        """Whether it has stalled; `now` by the monotonic clock."""
        absent = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if not busy or beats != self._beats:
            self._beats, self._still = beats, 0.0
            return False
        self._still += min(absent, 2 * self.interval)
        return self._still >= self.patience
