"""What a front sees of its engine without asking it: one that is wedged would not answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from radixmill.observe.pulse import EnginePulse
from radixmill.observe.watch import Watch

log = logging.getLogger("radixmill.front")


@dataclass(frozen=True)
class Load:
    """How an engine is, by its own page; None where it cannot be seen."""

    last_step_age: float | None = None  # seconds; None also before the first step
    running: int | None = None  # sequences, of all fronts
    waiting: int | None = None  # sequences, of all fronts
    waiting_tokens: int | None = None  # those that they have to compute


class EngineView:
    """Looks at the engine's page, and tells when it stands still.

    While the front waits for something it looks again and again: a stall is told within the patience. An idle front has no
    timer; it looks when it is asked.
    """

    def __init__(self, patience: float, serves: Callable[[], bool]) -> None:
        """`patience`: seconds without progress that are a stall. `serves`: whether there is an engine that has said Ready;
        one that loads, or is gone, does not stall."""
        self._watch, self._serves = Watch(patience), serves
        self._page: EnginePulse | None = None
        self._asked = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._told = False  # that a page can't be read

    def point(self, path: str) -> None:
        """Another incarnation writes the page at `path`; it may be gone again."""
        self.close()
        try:
            self._page = EnginePulse(Path(path), read_only=True)
        except FileNotFoundError:  # it has died already
            pass
        except OSError as error:
            if not self._told:
                log.warning("the engine cannot be seen, only heard: %s", error)
            self._told = True

    def asked(self, count: int) -> None:
        """So many sequences and questions wait for the engine."""
        self._asked = count
        if count and self._timer is None:
            self._tick()

    @property
    def stalled(self) -> bool:
        """Whether it has work and has done nothing for too long, as far as we have looked."""
        self._look()
        if self._page and self._page.busy and self._timer is None:
            self._tick()  # others' work: go on looking while there is any
        return self._stalled

    def load(self) -> Load:
        page = self._page
        if page is None:
            return Load()
        return Load(page.step_age(), page.running, page.waiting, page.waiting_tokens)

    def close(self) -> None:
        """See nothing any more. The next page may be pointed at all the same."""
        if self._page:
            self._page.close()
        self._page, self._stalled = None, False

    def _tick(self) -> None:
        self._look()
        busy = self._asked > 0 or (self._page is not None and self._page.busy)
        self._timer = asyncio.get_running_loop().call_later(self._watch.interval, self._tick) if busy else None

    def _look(self) -> None:
        page = self._page
        if page is None:
            self._stalled = False
            return
        busy = self._serves() and (self._asked > 0 or page.busy)
        self._stalled = self._watch.look(page.beats, busy, time.monotonic())
