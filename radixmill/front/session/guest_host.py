"""The process that renders templates of requests, each in a fork of its own. See guest.py, which starts it.

It reads what is asked and parses nothing of it: that is for the forks. Ends when the front does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec

from radixmill.core.errors import BadModel, BadRequest
from radixmill.front.session.ask import ChatPrompt
from radixmill.front.session.guest import (
    MAX_ANSWER,
    Answer,
    Broken,
    Facts,
    Job,
    Lost,
    Made,
    Refused,
    Short,
    detected_of,
)
from radixmill.front.session.text import ChatText
from radixmill.front.text import ChatTemplate, TooSlow
from radixmill.front.text.template import CHATML
from radixmill.front.text.tokenizer import Added
from radixmill.sacrifice.forks import CHUNK, Fate, Forks, address_space
from radixmill.sacrifice.frames import MAX_FRAME, Frames, framed

ROOM = 256 << 20  # bytes of address space for the host itself, beyond what it starts with and the jobs it holds
LATE = ("jinja2.constants", "jinja2.debug", "pprint", "random", "textwrap")  # what Jinja imports no sooner than needed
PARTS = 1 << 16  # bytes that are read at a time of what may be long


@dataclass(eq=False)
class Words:
    """A tokenizer's literals, without the tokenizer."""

    control: frozenset[str]
    added: tuple[Added, ...]


@dataclass(eq=False)
class _Guest:
    """One request's socket."""

    sock: socket.socket
    frames: Frames = field(default_factory=Frames)
    job: bytes | None = None  # None: it has not come in full


class Host:
    def __init__(self, line: socket.socket, facts: Facts) -> None:
        self._line, self._facts = line, facts
        self._words = Words(frozenset(facts.control), tuple(Added(literal, 0) for literal in facts.added))
        self._detected = detected_of(facts)
        self._forks = Forks(facts.bounds, self._work, self._ended, lambda guest: (guest.sock.fileno(),))
        self._forks.selector.register(line, selectors.EVENT_READ)

    def warm(self) -> None:
        """Render a template of ours, so that forks find compiled what all renderings need."""
        greeting = ChatPrompt(messages=({"role": "user", "content": "hi"},))
        for template in (CHATML, "{{ none.none }}", "{% if %}"):
            self._answer(Job(template, greeting))
        for name in LATE:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # forks share it for as long as nobody writes there

    def run(self) -> NoReturn:
        """Raises EOFError or OSError when the front is gone."""
        try:
            while True:
                for key, _ in self._forks.wait():
                    if key.data is None:
                        self._greet()
                    else:
                        self._hear(key.data)
        finally:
            self._forks.close()

    def _greet(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._line, 1, 1)
        if not data:
            raise EOFError
        for fd in fds:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self._forks.selector.register(sock, selectors.EVENT_READ, _Guest(sock))

    def _hear(self, guest: _Guest) -> None:
        if guest.sock.fileno() < 0:  # it was answered a moment ago
            return
        try:
            data = guest.sock.recv(CHUNK, socket.MSG_DONTWAIT)  # whether it blocks is also for our forks to say
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if guest.job is not None or not data:  # who has asked has nothing more to say, but that it waits no longer
            self._forks.stop(guest)
            self._part(guest)
            return
        for job in guest.frames.push(data):
            guest.job = job
            self._begin(guest)

    def _begin(self, guest: _Guest) -> None:
        try:
            self._forks.start(guest)
        except OSError as error:
            self._say(guest, Short(str(error)))
            self._part(guest)

    def _say(self, guest: _Guest, answer: Answer) -> None:
        """A few bytes, if there is room for them: nobody here waits for who does not read."""
        with contextlib.suppress(OSError):  # nobody waits for it
            guest.sock.send(framed(msgspec.json.encode(answer)), socket.MSG_DONTWAIT)

    def _part(self, guest: _Guest) -> None:
        self._forks.selector.unregister(guest.sock)
        guest.sock.close()

    def _work(self, guest: _Guest) -> bytes:
        """In a fork: its answer goes to whoever asked, not to us."""
        assert guest.job is not None, "begun when there is one"
        answer = framed(msgspec.json.encode(self._answer(msgspec.json.decode(guest.job, type=Job))))
        if len(answer) > MAX_ANSWER:
            answer = framed(msgspec.json.encode(Broken(f"it makes a text of more than {MAX_ANSWER >> 20} MiB")))
        _deliver(guest.sock, answer)
        return b""

    def _answer(self, job: Job) -> Answer:
        facts = self._facts
        try:
            template = ChatTemplate(job.template, variables=facts.variables, origin="it")
        except BadModel as error:
            return Broken(error.message)
        except RecursionError:
            return Lost("deep")
        except (
            ValueError,
            SyntaxError,
        ) as error:  # of Python's compiler: what Jinja makes of it may be too much for that
            return Broken(f"it can't be compiled: {error}")
        try:
            rendered = ChatText(template, self._words, self._detected, facts.template_kwargs).rendered(job.chat)
        except BadRequest as error:
            return Refused(error.message, error.param)
        except TooSlow as error:
            return Refused(str(error), None)
        except ValueError as error:  # also a TemplateError
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from None
            return Refused(str(error), None)
        return Made(rendered.text, rendered.mark)

    def _ended(self, guest: _Guest, answer: bytearray, fate: Fate | None) -> None:
        if fate is not None:
            self._say(guest, Lost(fate))
        self._part(guest)


def _deliver(sock: socket.socket, data: bytes) -> None:
    """Waits for room as it must, without a word to the socket, which is the host's too."""
    room, view = select.poll(), memoryview(data)
    room.register(sock, select.POLLOUT)
    while view:
        room.poll()
        with contextlib.suppress(BlockingIOError):
            view = view[sock.send(view, socket.MSG_DONTWAIT) :]


def main(line: socket.socket) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # of the whole group: the front ends us
        signal.signal(number, signal.SIG_IGN)
    time.tzset()  # what templates are told of the time is known before there are limits
    try:
        facts = msgspec.json.decode(_first(line), type=Facts)
        with contextlib.suppress(OSError):
            os.nice(facts.bounds.nice)
        host = Host(line, facts)
        host.warm()
        _bound(facts)
        line.sendall(b"+")
        host.run()
    except (OSError, EOFError):  # the front is gone
        return 0


def _bound(facts: Facts) -> None:
    """Jobs are kept while they come and while they run, each up to three times."""
    most = address_space() + facts.bounds.at_once * 3 * MAX_FRAME + ROOM
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))  # not the hard one: forks have a limit of their own


def _first(line: socket.socket) -> bytes:
    """The first frame. Nothing follows it before it has been answered."""
    frames = Frames()
    while data := line.recv(PARTS):
        for body in frames.push(data):
            return body
    raise EOFError


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
