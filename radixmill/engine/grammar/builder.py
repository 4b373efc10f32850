"""The process that tries grammars: each in a fork of its own, with limits, so that a bomb harms nobody.

    engine ──Job──▶ builder ──fork──▶ child: constraint → grammar → first mask
           ◀─Hello, Able, Tried | Refusal──     ◀─one frame─┘   or killed: too much memory, too much time

Single-threaded, so that it may fork; it holds the model's tokens and nothing else. Knows no engine.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections import deque

import llguidance

from radixmill.core.request import Constraint
from radixmill.engine.grammar.compile import to_grammar
from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.frames import Able, Hello, Job, Refusal, Tried, decode_job, frame
from radixmill.engine.grammar.matcher import Matcher, Start
from radixmill.engine.grammar.vocabulary import Vocabulary
from radixmill.sacrifice.forks import CHUNK, Bounds, Fate, Forks, die_with_parent
from radixmill.sacrifice.frames import Frames, is_whole


def serve(sock: socket.socket, vocabulary: Vocabulary, bounds: Bounds | None = None) -> None:
    """Try what is asked until the other end of `sock` is gone."""
    die_with_parent()
    bounds = bounds or Bounds()
    with contextlib.suppress(OSError):
        os.nice(bounds.nice)
    try:
        sock.setblocking(True)
        sock.sendall(frame(Hello(vocabulary)))  # the engine says nothing before it has heard this
        sock.setblocking(False)
        _Builder(sock, vocabulary, bounds).run()
    except (OSError, EOFError):  # the engine is gone, and nobody waits for an answer
        return


class _Builder:
    def __init__(self, sock: socket.socket, vocabulary: Vocabulary, bounds: Bounds) -> None:
        self._sock, self._vocabulary, self._bounds = sock, vocabulary, bounds
        self._tokenizer = vocabulary.tokenizer()
        self._frames = Frames()
        self._waiting: deque[Job] = deque()
        self._forks = Forks(bounds, self._work, self._ended)
        self._forks.selector.register(sock, selectors.EVENT_READ)
        self._out = bytearray()  # the engine may be writing too: nobody waits for room

    def run(self) -> None:
        """Raises EOFError when the engine is gone."""
        try:
            self._say(frame(Able()))
            while True:
                self._turn()
        finally:
            self._forks.close()

    def _turn(self) -> None:
        for _, events in self._forks.wait():
            if events & selectors.EVENT_READ:
                self._intake()
            else:
                self._say(b"")
        while self._waiting and len(self._forks) < self._bounds.at_once:
            self._begin(self._waiting.popleft())

    def _begin(self, job: Job) -> None:
        try:
            self._forks.start(job)
        except OSError:
            self._say(frame(Refusal(job.id, "no process can be had to try the grammar in; try again")))

    def _intake(self) -> None:
        data = self._sock.recv(CHUNK)
        if not data:
            raise EOFError
        self._waiting.extend(map(decode_job, self._frames.push(data)))

    def _say(self, data: bytes | bytearray) -> None:
        """Send what there is room for; the rest when there is more."""
        self._out += data
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: self._sock.send(self._out)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._forks.selector.modify(self._sock, events)

    def _work(self, job: Job) -> bytes:
        return frame(_try(job, self._vocabulary, self._tokenizer))

    def _ended(self, job: Job, answer: bytearray, fate: Fate | None) -> None:
        self._say(answer if is_whole(answer) else frame(Refusal(job.id, self._verdict(fate))))

    def _verdict(self, fate: Fate | None) -> str:
        """Why a child ended without an answer."""
        match fate:
            case "late":
                return f"the grammar cannot be built within {self._bounds.patience:g} seconds"
            case "slow":
                return f"the grammar takes more than {self._bounds.seconds:g} seconds to build"
            case "deep":
                return "the grammar is nested too deeply to build"
        return f"the grammar takes more than {self._bounds.memory >> 20} MiB to build"


def refuse_all(sock: socket.socket, reason: str) -> None:
    """Instead of `serve`: say that nothing can be tried here."""
    sock.sendall(frame(Refusal(0, reason)))


def _try(job: Job, vocabulary: Vocabulary, tokenizer: llguidance.LLTokenizer) -> Tried | Refusal:
    before = _memory()
    try:
        grammar = to_grammar(Constraint(kind=job.kind, text=job.text), vocabulary)
        Matcher(vocabulary, Start(tokenizer, grammar)).check()
    except GrammarError as error:
        return Refusal(job.id, error.reason, error.place)
    except RecursionError:
        return Refusal(job.id, "the grammar is nested too deeply to build")
    except MemoryError:
        raise
    except BaseException as error:  # the library's panics are no Exceptions
        return Refusal(job.id, f"building the grammar fails ({type(error).__name__})")
    return Tried(job.id, grammar, max(_memory() - before, 0))


def _memory() -> int:
    """Bytes of this process that stand in no file."""
    with open("/proc/self/status", "rb") as file:
        lines = dict(line.split(b":", 1) for line in file)
    return int(lines[b"RssAnon"].split()[0]) * 1024
