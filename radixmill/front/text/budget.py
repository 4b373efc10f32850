"""What one rendering of a template may use: time, and texts and lists made out of others. Knows nothing of messages.

Time is looked at every few steps, and after every step that handles much. Sizes are in characters; an item of a list
counts as some. What a value would be as text is counted before it is printed or compared: a list that holds one list
twice, and that another, and so on, is small in memory and endless on paper.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from typing import Any, Literal

from jinja2.utils import Namespace

SECONDS = 1.0  # of the processor, for one rendering: thousands of messages take less
MAX_TEXT = 1 << 24  # characters of one text, or of one value as text
MAX_ITEMS = 1 << 20  # that one operation makes
_MAX_MADE = 1 << 29  # characters of all that is made, most of which is dropped at once
_STEPS = 64  # between two looks at the clock
_MUCH = 1 << 16  # characters
_ITEM = 32


class OverBudget(Exception):
    """The rendering asks for too much. The message is for the client."""


class OutOfTime(OverBudget):
    """It took too long."""


class Budget(threading.local):
    """The account of a thread: it renders one template at a time. Outside of `limited` nothing is denied for time."""

    _steps = 0
    _made = 0
    _until = math.inf

    @contextmanager
    def limited(self) -> Iterator[None]:
        """One rendering."""
        before = self._made, self._until
        self._made, self._until = 0, min(self._until, time.thread_time() + SECONDS)
        try:
            yield
        finally:
            self._made, self._until = before

    def tick(self) -> Literal[True]:
        """One step was taken."""
        self._steps += 1
        if not self._steps % _STEPS:
            self._look()
        return True

    def read(self, size: int) -> None:
        """So many characters were looked at."""
        if size > _MUCH:
            self._look()

    def take(self, size: int) -> None:
        """So many characters were made."""
        self._made += size
        if size > MAX_TEXT or self._made > _MAX_MADE:
            raise OverBudget("the chat template makes too much text of these messages")
        self.read(size)

    def made(self, value: Any) -> Any:
        """The value, which is a new one."""
        if isinstance(value, str):
            self.take(len(value))
        elif isinstance(value, list | tuple):
            self.take(8 * len(value))
        return value

    def weigh(self, value: Any, indent: int = 0) -> int:
        """Characters of a value as text, with so many before a line for each level: about as many, or more."""
        if isinstance(value, str):
            size = len(value)
        elif value is None or isinstance(value, bool):
            return 8
        else:
            size = _size(value, indent)
        if size > MAX_TEXT:
            raise OverBudget("the chat template handles a value that is too large to print")
        self.read(size)
        return size

    def weighed(self, value: Any) -> Any:
        """The value, if it can be printed or compared."""
        self.weigh(value)
        return value

    def joined(self, parts: Iterable[str]) -> str:
        """All the texts."""
        kept, size = [], 0
        for part in parts:
            self.tick()
            kept.append(part)
            if (size := size + len(part)) > MAX_TEXT:
                break
        self.take(size)
        return "".join(kept)

    def _look(self) -> None:
        if time.thread_time() > self._until:
            raise OutOfTime(f"the chat template took longer than {SECONDS} seconds for these messages")


def _size(value: Any, indent: int) -> int:
    """Stops soon after MAX_TEXT."""
    total, todo = 0, [(value, 0)]
    while todo and total <= MAX_TEXT:
        one, margin = todo.pop()
        if isinstance(one, str):
            total += len(one) + 4 + margin
        elif isinstance(one, int):
            total += one.bit_length() // 3 + 4 + margin
        else:
            total += _ITEM + margin
            todo += [(part, margin + indent) for part in _parts(one)]
    return total


def _parts(value: Any) -> Iterable[Any]:
    """What is printed with it."""
    match value:
        case dict():
            return [*value.keys(), *value.values()]
        case list() | tuple():
            return value
        case Namespace():
            return [value._Namespace__attrs]
        case KeysView() | ValuesView() | ItemsView() | set():
            return list(value)
    return ()
