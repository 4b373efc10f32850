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
    live: bool  # still being made: it stays


class Shelf:
    """What one owner has."""

    def __init__(self) -> None:
        self.ids: OrderedDict[str, None] = OrderedDict()  # oldest first
        self.used = 0  # bytes


class Store(Generic[T]):
    """When there is no room, the oldest goes of the owner who holds most of what is short: nobody's flood drives out what
    others keep. What is still being made never goes; it may be more than there is room for. A value that is put again
    keeps its age."""

    def __init__(self, *, entries: int, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """At most `entries` values of `size` bytes together, each for `seconds` from the first time it was put."""
        self.entries, self.size, self.seconds, self._clock = entries, size, seconds, clock
        self.used = 0  # bytes
        self._kept: OrderedDict[tuple[str, str], Kept[T]] = OrderedDict()  # oldest first
        self._shelves: dict[str, Shelf] = {}  # by owner

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, owner: str, id: str, value: T, size: int, *, live: bool = False) -> bool:
        """Keep a value, or replace it; False if it is larger than the whole store, then nothing is kept under its id.
        `live`: it is still being made, and will be put again when it is done."""
        self._expire()
        key = (owner, id)
        old = self._kept.get(key)
        if size > self.size or not self.entries:
            self._remove(key)
            return False
        self._add(key, size - (old.size if old else 0))
        self._kept[key] = Kept(value, size, old.until if old else self._clock() + self.seconds, live)
        while (self.used > self.size or len(self._kept) > self.entries) and (victim := self._victim(key)):
            self._remove(victim)
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
        shelf = self._shelves.get(owner)
        return [self._kept[owner, id].value for id in shelf.ids] if shelf else []

    def _victim(self, spared: tuple[str, str]) -> tuple[str, str] | None:
        bytes_short = self.used > self.size
        shelves = self._shelves.items()
        for owner, shelf in sorted(
            shelves, key=lambda item: item[1].used if bytes_short else len(item[1].ids), reverse=True
        ):
            for id in shelf.ids:
                if (owner, id) != spared and not self._kept[owner, id].live:
                    return owner, id
        return None

    def _expire(self) -> None:
        now, late = self._clock(), []
        for key, kept in self._kept.items():
            if kept.until > now:
                break
            if not kept.live:
                late.append(key)
        for key in late:
            self._remove(key)

    def _add(self, key: tuple[str, str], size: int) -> None:
        owner, id = key
        shelf = self._shelves.setdefault(owner, Shelf())
        shelf.ids.setdefault(id)
        shelf.used += size
        self.used += size

    def _remove(self, key: tuple[str, str]) -> Kept[T] | None:
        kept = self._kept.pop(key, None)
        if kept:
            self._add(key, -kept.size)
            shelf = self._shelves[key[0]]
            del shelf.ids[key[1]]
            if not shelf.ids:
                del self._shelves[key[0]]
        return kept
