"""The process that tries grammars: each in a fork of its own, with limits, so that a bomb harms nobody.

    engine ──Job──▶ builder ──fork──▶ child: constraint → grammar → first mask
           ◀─Hello, Tried | Refusal──     ◀─one frame─┘   or killed: too much memory, too much time

Single-threaded, so that it may fork; it holds the model's tokens and nothing else. Knows no engine.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import llguidance

from radixmill.core.request import Constraint
from radixmill.engine.grammar.compile import to_grammar
from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.frames import Frames, Hello, Job, Refusal, Tried, decode_job, frame, is_whole
from radixmill.engine.grammar.matcher import Matcher, Start
from radixmill.engine.grammar.vocabulary import Vocabulary

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What one grammar may take, and how many are tried at once."""

    seconds: float = 1.5  # of CPU time: others' load refuses nobody
    patience: float = 6.0  # seconds of wall time, for what doesn't even compute
    memory: int = 512 << 20  # bytes of address space beyond the builder's own
    at_once: int = 4  # more than there may be cores: a few that take all their time must not delay the quick ones
    nice: int = 5  # below the engine, whose steps must not wait for grammars


@dataclass(eq=False)
class _Trial:
    """A child at work."""

    job: Job
    pid: int
    pipe: int
    deadline: float
    answer: bytearray = field(default_factory=bytearray)


def serve(sock: socket.socket, vocabulary: Vocabulary, bounds: Bounds | None = None) -> None:
    """Try what is asked until the other end of `sock` is gone."""
    _die_with_parent()
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
        self._trials: list[_Trial] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ, None)
        self._out = bytearray()  # the engine may be writing too: nobody waits for room

    def run(self) -> None:
        """Raises EOFError when the engine is gone."""
        try:
            while True:
                self._turn()
        finally:
            for trial in self._trials:
                _reap(trial.pid, kill=True)

    def _turn(self) -> None:
        patience = min((trial.deadline for trial in self._trials), default=None)
        timeout = None if patience is None else max(patience - time.monotonic(), 0.0)
        for key, events in self._selector.select(timeout):
            if key.data:
                self._read(key.data)
            elif events & selectors.EVENT_READ:
                self._intake()
            else:
                self._say(b"")
        now = time.monotonic()
        for trial in [trial for trial in self._trials if trial.deadline <= now]:
            self._end(trial, late=True)
        while self._waiting and len(self._trials) < self._bounds.at_once:
            self._start(self._waiting.popleft())

    def _intake(self) -> None:
        data = self._sock.recv(_CHUNK)
        if not data:
            raise EOFError
        self._waiting.extend(map(decode_job, self._frames.push(data)))

    def _say(self, data: bytes | bytearray) -> None:
        """Send what there is room for; the rest when there is more."""
        self._out += data
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: self._sock.send(self._out)]
        self._selector.modify(self._sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0), None)

    def _start(self, job: Job) -> None:
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._sock.close()
            _child(job, self._vocabulary, self._tokenizer, self._bounds, theirs)
        os.close(theirs)
        trial = _Trial(job, pid, ours, time.monotonic() + self._bounds.patience)
        self._trials.append(trial)
        self._selector.register(ours, selectors.EVENT_READ, trial)

    def _read(self, trial: _Trial) -> None:
        data = os.read(trial.pipe, _CHUNK)
        trial.answer += data
        if not data:
            self._end(trial)

    def _end(self, trial: _Trial, *, late: bool = False) -> None:
        self._trials.remove(trial)
        self._selector.unregister(trial.pipe)
        os.close(trial.pipe)
        status = _reap(trial.pid, kill=late)
        whole = is_whole(trial.answer)
        self._say(trial.answer if whole else frame(Refusal(trial.job.id, self._verdict(status, late))))

    def _verdict(self, status: int, late: bool) -> str:
        """Why a child ended without an answer."""
        if late:
            return f"the grammar cannot be built within {self._bounds.patience:g} seconds"
        if status in (-signal.SIGPROF, -signal.SIGXCPU):
            return f"the grammar takes more than {self._bounds.seconds:g} seconds to build"
        if status == -signal.SIGSEGV:  # the stack
            return "the grammar is nested too deeply to build"
        return f"the grammar takes more than {self._bounds.memory >> 20} MiB to build"


def _child(
    job: Job, vocabulary: Vocabulary, tokenizer: llguidance.LLTokenizer, bounds: Bounds, pipe: int
) -> None:  # never returns
    """Try one constraint, within limits, and say what came of it."""
    status = 1
    try:
        _die_with_parent()
        _limit(bounds)
        _silence()
        with open(pipe, "wb", buffering=0) as out:
            _write(out.fileno(), frame(_try(job, vocabulary, tokenizer)))
        status = 0
    except MemoryError:  # said by the exit status
        pass
    finally:
        os._exit(status)  # no clean-up of what is the parent's


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


def _limit(bounds: Bounds) -> None:
    with open("/proc/self/statm", "rb") as file:
        size = int(file.read().split()[0]) * resource.getpagesize() + bounds.memory
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # what it does: end the process
    signal.setitimer(signal.ITIMER_PROF, bounds.seconds)  # CPU time in fractions of a second, which RLIMIT_CPU lacks
    whole = math.ceil(bounds.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _memory() -> int:
    """Bytes of this process that stand in no file."""
    with open("/proc/self/status", "rb") as file:
        lines = dict(line.split(b":", 1) for line in file)
    return int(lines[b"RssAnon"].split()[0]) * 1024


def _silence() -> None:
    """What the library says when it runs out of memory is nobody's to read."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stderr.fileno() if sys.stderr else 2)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _reap(pid: int, *, kill: bool) -> int:
    """Wait for a child that has ended or is to; its exit status, negative for a signal."""
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die_with_parent() -> None:
    """Linux's prctl(PR_SET_PDEATHSIG): whoever forgets us takes us along. Elsewhere the end of the socket must do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
