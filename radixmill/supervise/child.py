"""A process we started, and the line to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from radixmill.observe.pulse import EnginePulse, FrontPulse
from radixmill.supervise import words
from radixmill.supervise.blame import Blame

HELD = 1 << 20  # bytes of a line that does not end
UNSENT = 8 << 20  # bytes for a child that does not read


@dataclass(eq=False)
class Child:
    """One process of a role. Equal only to itself."""

    role: str
    number: int  # of its role, counted from 1
    process: subprocess.Popen[bytes]
    control: socket.socket  # does not block
    pulse: EnginePulse | FrontPulse
    paths: tuple[Path, ...] = ()  # files that end with it
    held: bytes = b""  # a line it has begun
    unsent: bytearray = field(default_factory=bytearray)  # lines for it that its socket has no room for
    buried: bool = False  # gone, reaped and forgotten
    excuse: str = ""  # why it said that it cannot start
    no_room: bool = False  # that is for want of memory
    changed: bool = False  # that is because its model is not the one that earlier engines served
    reserved: int = 0  # bytes that an engine has taken for weights and KV cache, touched or not
    verdict: str = ""  # why we killed it
    up: bool = False  # it serves
    progressed: bool = False  # an engine has committed a token, a front has been up
    innocent: bool = False  # we kill it for what somebody else has done to it
    blame: Blame = field(default_factory=Blame)

    def tell(self, **event: Any) -> None:
        """Never blocks: a child that is stopped must not stop us. It is killed once too much waits for it."""
        self.post(event)

    def post(self, value: Any) -> None:
        if self.buried:
            return
        self.unsent += msgspec.json.encode(value) + b"\n"
        self.flush()
        if len(self.unsent) > UNSENT and not self.verdict:
            self.kill("it does not read what it is told")

    def flush(self) -> None:
        """Send what there is room for."""
        try:
            while self.unsent:
                del self.unsent[: self.control.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:  # a child that is gone is noticed by the loop
            self.unsent.clear()

    def nudge(self) -> None:
        """Wake it, if it can be woken: an engine that waits beats then."""
        if not self.unsent:
            with contextlib.suppress(OSError):
                self.control.send(b"\n")

    def heard(self) -> list[words.EngineWord | words.FrontWord] | None:
        """What it has said since; None once the line is dead. Raises words.Unreadable."""
        try:
            data = self.control.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self.held = (self.held + data).split(b"\n")
        if len(self.held) > HELD:
            raise words.Unreadable("a line without end")
        return [words.read(self.role, line) for line in lines]

    def kill(self, why: str) -> None:
        """Its line dies then, and it is buried. (`Popen.kill` may reap it, so its exit status says nothing about that.)"""
        self.verdict = self.verdict or why
        self.process.kill()

    def reap(self, *, patience: float = 0.0) -> int:
        """Make sure that the process is gone, at once or after as many seconds; its exit status."""
        self.buried = True
        self.unsent.clear()
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        if self.process.poll() is None:
            self.process.kill()
        self.control.close()
        return self.process.wait()

    def untouched(self) -> int:
        """Bytes it has reserved that still count as free: pages that nobody has written to yet."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            return max(self.reserved - pages * os.sysconf("SC_PAGE_SIZE"), 0)
        return 0

    def cause(self, status: int) -> str:
        """Why it ended, in a few words."""
        return self.excuse or self.verdict or _cause(status)


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def bury_strangers(ours: Iterable[int]) -> None:
    """Reap children that are dead and not `ours`: the first process of a container inherits orphans, such as what a killed
    engine had started, and nobody else can."""
    known = set(ours)
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # of a thread that has ended, or a child that is gone
            for pid in map(int, path.read_text().split()):
                if pid not in known and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    os.waitpid(pid, os.WNOHANG)
