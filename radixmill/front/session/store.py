"""Answers kept for later, in memory: bounded in number, bytes and time. Knows nothing of what they are.

Each belongs to an owner; an owner never sees another's, nor learns that it exists.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Kept(NamedTuple, Generic[T]):
    value: T
    size: int  # bytes, as whoever put it here counts them
    until: float  # on the store's clock


class Store(Generic[T]):
    """The oldest go first when there is no room; a value that is put again keeps its age."""

    def __init__(self, *, entries: int, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """At most `entries` values of `size` bytes together, each for `seconds` from the first time it was put."""
        self.entries, self.size, self.seconds, self._clock = entries, size, seconds, clock
        self.used = 0  # bytes
        self._kept: OrderedDict[tuple[str, str], Kept[T]] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, owner: str, id: str, value: T, size: int) -> bool:
        """Keep a value, or replace it; False if it is larger than the whole store, then nothing is kept under its id."""
        self._expire()
        key = (owner, id)
        old = self._kept.get(key)
        if size > self.size or not self.entries:
            self._remove(key)
            return False
        self.used += size - (old.size if old else 0)
        self._kept[key] = Kept(value, size, old.until if old else self._clock() + self.seconds)
        while self.used > self.size or len(self._kept) > self.entries:
            self._remove(next(other for other in self._kept if other != key))
        return True

    def get(self, owner: str, id: str) -> T | None:
        self._expire()
        kept = self._kept.get((owner, id))
        return kept.value if kept else None

    def drop(self, owner: str, id: str) -> T | None:
        """Forget a value; what it was, if it was there."""
        self._expire()
        kept = self._remove((owner, id))
        return kept.value if kept else None

    def of(self, owner: str) -> list[T]:
        """All values of an owner, oldest first."""
        self._expire()
        return [kept.value for (whose, _), kept in self._kept.items() if whose == owner]

    def _expire(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._remove(next(iter(self._kept)))

    def _remove(self, key: tuple[str, str]) -> Kept[T] | None:
        kept = self._kept.pop(key, None)
        if kept:
            self.used -= kept.size
        return kept
