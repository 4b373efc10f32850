"""Logging for all processes: one line each, to stderr, with the process's role. It does not quote clients.

What a client sent may be in an exception's message, and control characters in a name could forge lines: of exceptions the
types and places are told, not the messages, and whatever cannot be printed is escaped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO

from radixmill.core.errors import CannotStart

QUOTABLE = (OSError, MemoryError, ImportError, CannotStart)  # what they say is not about what a client said
HELD = 1 << 20  # characters that wait for somebody to read them
PATIENCE = 1.0  # seconds that a process which ends waits for that
WITHHELD = "its message is withheld: it may quote a client (--log-prompts shows it)"
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def setup(role: str, level: str = "info", *, quotes: bool = False) -> None:
    """Log to stderr as `12:34:56 role    message`; libraries from warnings on. `quotes`: messages of exceptions too.

    What kills a process is logged in full where that process knows ids only, and no text.
    """
    handler = Writer(sys.stderr)
    handler.setFormatter(Discreet(f"%(asctime)s {role:<10} %(message)s", "%H:%M:%S", quotes=quotes))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("radixmill").setLevel(level.upper())
    if role in ("front", "grammar"):
        sys.excepthook = _on_death
        threading.excepthook = lambda args: _on_death(args.exc_type, args.exc_value, args.exc_traceback)
    else:
        sys.excepthook = lambda *death: handler.put("".join(traceback.format_exception(*death)))


def tell(line: str) -> None:
    """A line that is not the log's, to stderr behind those that are."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Writer):
            handler.put(line + "\n")
            return
    print(line, file=sys.stderr)


class Writer(logging.Handler):
    """Writes from a thread of its own: who logs does not wait for who should read that.

    A pipe to a pager, or a terminal that is told to stop, may take nothing for hours. What it has no room for meanwhile is
    dropped, and counted.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        assert self.lock
        self._stream = stream
        self._lines: deque[str] = deque()  # the first is being written
        self._held = 0  # characters of them
        self._dropped = 0  # lines since the last one that was taken
        self._changed = threading.Condition(self.lock)
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.put(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def put(self, line: str) -> None:
        with self._changed:
            # NOTE: once full, half of it must be read first. Else every other line would say that one was dropped.
            if self._lines and self._held + len(line) > (HELD // 2 if self._dropped else HELD):
                self._dropped += 1
                return
            self._confess()
            self._take(line)

    def flush(self) -> None:
        """Wait until all is written, for a short time."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._dropped, PATIENCE)

    def _take(self, line: str) -> None:
        self._lines.append(line)
        self._held += len(line)
        if self._thread is None:  # not before: who forks without having said anything has one thread
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _confess(self) -> None:
        if dropped := self._dropped:
            self._dropped = 0
            what = f"{dropped} lines are missing here: nobody read the log"
            self._take(self.format(logging.makeLogRecord({"msg": what, "levelno": logging.WARNING})) + "\n")

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._lines:
                    self._confess()
                self._changed.wait_for(lambda: self._lines)
                line = self._lines[0]
            with contextlib.suppress(OSError, ValueError, AttributeError):  # a full disk, no stderr: nobody to tell
                self._write(line)
            with self._changed:
                self._held -= len(self._lines.popleft())
                self._changed.notify_all()

    def _write(self, line: str) -> None:
        """Past the stream's buffer, whose lock a process that ends must not find taken."""
        try:
            number = self._stream.fileno()
        except (OSError, AttributeError):  # something in memory
            self._stream.write(line)
            return
        data = line.encode(self._stream.encoding or "utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(number, data) :]
            except BlockingIOError:  # somebody who has it too made it so
                select.select([], [number], [])


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
