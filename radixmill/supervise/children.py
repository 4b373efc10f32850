"""All children: started, waited for, ended. What their words and deaths mean is not known here."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

from radixmill.observe.pulse import EnginePulse, FrontPulse
from radixmill.supervise.boot import Boot, start_role
from radixmill.supervise.child import Child
from radixmill.supervise.folder import discard

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Children:
    """Waits for what they say, and for `wake` from signal handlers and other threads."""

    def __init__(self) -> None:
        self._all: set[Child] = set()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, _READ, None)

    @property
    def pids(self) -> list[int]:
        return [child.process.pid for child in self._all]

    def start(
        self,
        boot: Boot,
        number: int,
        listener: socket.socket,
        pulse: EnginePulse | FrontPulse,
        paths: tuple[Path, ...],
    ) -> Child:
        """`paths`: files that end with it, as does `pulse`. Raises OSError; then there is no process."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                process = start_role(boot.role, theirs, listener)
            child = Child(boot.role, number, process, ours, pulse, paths)
            undo.callback(child.reap)
            self._selector.register(ours, _READ, child)
            undo.pop_all()
        self._all.add(child)
        child.post(boot)
        return child

    def wait(self, timeout: float | None) -> Iterator[Child | None]:
        """Children that have said something or are dead; None: somebody has called `wake`."""
        for child in self._all:
            self._selector.modify(child.control, _READ | _WRITE if child.unsent else _READ, child)
        for key, events in self._selector.select(timeout):
            child = key.data
            if child is None:
                with contextlib.suppress(BlockingIOError):
                    while self._woken.recv(64):
                        pass
                yield None
                continue
            if events & _WRITE and not child.buried:  # it may have been buried since
                child.flush()
            if events & _READ and not child.buried:
                yield child

    def wake(self) -> None:
        """End a wait. Safe in a signal handler and from any thread."""
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    def end(self, child: Child, *, patience: float = 0.0) -> int:
        """Reap one and remove what was its own; its exit status. Its pulse is left to be read, and closed, by others."""
        self._all.discard(child)
        self._selector.unregister(child.control)
        status = child.reap(patience=patience)
        discard(child.paths)
        return status

    def close(self) -> None:
        for child in list(self._all):
            self.end(child)
            child.pulse.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()
