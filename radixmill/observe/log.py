"""Logging for all processes: one line each, to stderr, with the process's role. It does not quote clients.

What a client sent may be in an exception's message, and control characters in a name could forge lines: of exceptions the
types and places are told, not the messages, and whatever cannot be printed is escaped.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from radixmill.core.errors import CannotStart

QUOTABLE = (OSError, MemoryError, ImportError, CannotStart)  # what they say is not about what a client said
WITHHELD = "its message is withheld: it may quote a client (--log-prompts shows it)"
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def setup(role: str, level: str = "info", *, quotes: bool = False) -> None:
    """Log to stderr as `12:34:56 role    message`; libraries from warnings on. `quotes`: messages of exceptions too.

    What kills a process is logged in full where that process knows ids only, and no text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Discreet(f"%(asctime)s {role:<10} %(message)s", "%H:%M:%S", quotes=quotes))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("radixmill").setLevel(level.upper())
    if role in ("front", "grammar"):
        sys.excepthook = _on_death
        threading.excepthook = lambda args: _on_death(args.exc_type, args.exc_value, args.exc_traceback)


class Discreet(logging.Formatter):
    """Escapes what is not printable, and withholds what exceptions say."""

    def __init__(self, line: str, date: str | None = None, *, quotes: bool = False) -> None:
        super().__init__(line, date)
        self.quotes = quotes

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().strip()
        if record.name == "asyncio" and not self.quotes:
            message = message.partition("\n")[0]  # what follows shows a task with its exception
        record.message, record.asctime = escaped(message), self.formatTime(record, self.datefmt)
        line = self.formatMessage(record)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def formatException(self, given: Any) -> str:
        error: BaseException | None = given[1]
        if self.quotes:
            return super().formatException(given)
        return "".join(_told(error, given[2], set())).rstrip("\n") if error else ""


def escaped(text: str) -> str:
    """On one line, with everything visible."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()


def _told(error: BaseException, place: TracebackType | None, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _told(before, before.__traceback__, seen)
        yield _CAUSE if error.__cause__ else _CONTEXT
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(place)
    yield f"{type(error).__module__}.{type(error).__qualname__}: {_said(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            if id(each) not in seen:
                yield from _told(each, each.__traceback__, seen)


def _said(error: BaseException) -> str:
    if isinstance(error, QUOTABLE):
        return escaped(str(error))
    return WITHHELD if str(error) else ""


def _on_death(kind: type[BaseException], error: BaseException | None, place: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt) or error is None:
        return
    logging.getLogger("radixmill").critical("ending: nobody caught this", exc_info=(kind, error, place))
