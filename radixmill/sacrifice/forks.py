"""Jobs, each done in a fork with limits of memory and time; whoever waits hears what came of it, or how the fork ended.

For processes with a single thread, which alone may fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from radixmill.sacrifice.seal import seal

J = TypeVar("J")

CHUNK = 1 << 20
LINGER = 0.002  # seconds until we look again whether a fork is over that has nothing more to say

Fate = Literal["late", "slow", "deep", "memory", "killed"]
"""How a fork ended that did not do its job: too much wall time, too much CPU time, its stack, its memory, something else."""


@dataclass(frozen=True)
class Bounds:
    """What one job may take, and how many are done at once."""

    seconds: float = 1.5  # of CPU time: others' load refuses nobody
    patience: float = 6.0  # seconds of wall time, for what doesn't even compute
    memory: int = 512 << 20  # bytes of address space beyond the forking process's own
    at_once: int = 4  # more than there may be cores: a few that take all their time must not delay the quick ones
    nice: int = 5  # below the engine, whose steps must not wait for this
    answer: int = 64 << 20  # bytes that a fork may say to us
    sealed: bool = False  # it opens nothing and starts nothing: its work has in memory all that it needs


@dataclass(eq=False)
class _Trial(Generic[J]):
    """A fork at work."""

    job: J
    pid: int
    pipe: int
    deadline: float
    answer: bytearray = field(default_factory=bytearray)
    quiet: bool = False  # it has closed its pipe: it is to end now, but what can't be trusted may live on


class Forks(Generic[J]):
    """The forks of one process. Its `selector` is for what else the process waits for."""

    def __init__(
        self,
        bounds: Bounds,
        work: Callable[[J], bytes],
        ended: Callable[[J, bytearray, Fate | None], None],
        keeps: Callable[[J], tuple[int, ...]] = lambda job: (),
    ) -> None:
        """`work`: does a job, in its fork. `ended`: told what it gave, in full or not, and how it ended; None: well.
        `keeps`: file descriptors that a fork keeps; all others but the standard ones are closed there."""
        self.selector = selectors.DefaultSelector()
        self._bounds, self._work, self._ended, self._keeps = bounds, work, ended, keeps
        self._trials: list[_Trial[J]] = []

    def __len__(self) -> int:
        return len(self._trials)

    def start(self, job: J) -> None:
        """Raises OSError where the system has no process or pipe to give."""
        ours, theirs = os.pipe()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(ours)
            os.close(theirs)
            raise
        if pid == 0:
            self._child(job, theirs, parent)
        os.close(theirs)
        trial = _Trial(job, pid, ours, time.monotonic() + self._bounds.patience)
        self._trials.append(trial)
        self.selector.register(ours, selectors.EVENT_READ, trial)

    def wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for something to happen; what has nothing to do with forks is given back."""
        others = []
        for key, events in self.selector.select(self._timeout()):
            if isinstance(key.data, _Trial):
                self._read(key.data)
            else:
                others.append((key, events))
        now = time.monotonic()
        for trial in list(self._trials):
            if trial.deadline <= now:
                self._end(trial, kill=True, late=True)
            elif trial.quiet:
                self._end(trial)
        return others

    def _timeout(self) -> float | None:
        deadline = min((trial.deadline for trial in self._trials), default=None)
        if deadline is None:
            return None
        left = max(deadline - time.monotonic(), 0.0)
        return min(left, LINGER) if any(trial.quiet for trial in self._trials) else left

    def stop(self, job: J) -> None:
        """Nobody waits for it any more: `ended` is not told."""
        for trial in [trial for trial in self._trials if trial.job is job]:
            self._over(trial, kill=True)

    def close(self) -> None:
        for trial in list(self._trials):
            self._over(trial, kill=True)

    def _read(self, trial: _Trial[J]) -> None:
        data = os.read(trial.pipe, CHUNK)
        trial.answer += data
        if not data:
            self._hush(trial)
        elif len(trial.answer) > self._bounds.answer:
            trial.answer.clear()
            self._end(trial, kill=True)

    def _hush(self, trial: _Trial[J]) -> None:
        if not trial.quiet:
            trial.quiet = True
            self.selector.unregister(trial.pipe)
            os.close(trial.pipe)

    def _end(self, trial: _Trial[J], *, kill: bool = False, late: bool = False) -> None:
        """If it is over, or to be."""
        if (status := self._over(trial, kill=kill)) is not None:
            self._ended(trial.job, trial.answer, _fate(status, late))

    def _over(self, trial: _Trial[J], *, kill: bool) -> int | None:
        """Forget it, and its exit status; None: it lives on."""
        if (status := _reap(trial.pid, kill=kill)) is not None:
            self._hush(trial)
            self._trials.remove(trial)
        return status

    def _child(self, job: J, pipe: int, parent: int) -> None:  # never returns
        """Do one job, within limits, and say what came of it."""
        status = 1
        try:
            die_with_parent()
            if os.getppid() != parent:  # it was gone before we had asked for that
                return
            _keep_only(pipe, *self._keeps(job))
            _limit(self._bounds)
            _silence()
            if self._bounds.sealed:
                seal()
            _write(pipe, self._work(job))
            status = 0
        except MemoryError:  # said by the exit status
            pass
        except BaseException:
            status = 2
        finally:
            os._exit(status)  # no clean-up of what is the parent's


def _fate(status: int, late: bool) -> Fate | None:
    if late:
        return "late"
    if status in (-signal.SIGPROF, -signal.SIGXCPU):
        return "slow"
    if status == -signal.SIGSEGV:  # the stack
        return "deep"
    return {0: None, 1: "memory"}.get(status, "killed")


def _keep_only(*kept: int) -> None:
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def address_space() -> int:
    """Bytes of it that this process has taken."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit(bounds: Bounds) -> None:
    size = address_space() + bounds.memory
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # what it does: end the process
    signal.setitimer(signal.ITIMER_PROF, bounds.seconds)  # CPU time in fractions of a second, which RLIMIT_CPU lacks
    whole = math.ceil(bounds.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _silence() -> None:
    """What a library says when it runs out of memory is nobody's to read."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stderr.fileno() if sys.stderr else 2)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _reap(pid: int, *, kill: bool) -> int | None:
    """A child's exit status, negative for a signal; None: it has not ended. Nobody waits for one that was not killed."""
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ended, status = os.waitpid(pid, 0 if kill else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def die_with_parent() -> None:
    """Linux's prctl(PR_SET_PDEATHSIG): whoever forgets us takes us along. Elsewhere the end of the socket must do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
