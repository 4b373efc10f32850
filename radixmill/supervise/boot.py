"""How a child begins: a fresh interpreter that inherits nothing but the sockets named here, and one line that says who it is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from radixmill.core.config import Config
from radixmill.core.spec import Identity, TextMark
from radixmill.store import ModelFiles

KEY_VARIABLES = ("RADIXMILL_API_KEY", "RADIXMILL_ADMIN_API_KEY")


@dataclass(frozen=True)
class Boot:
    """All that a child is told when it starts."""

    role: str
    config: Config
    model_name: str
    model_root: str
    model_sha256: str | None
    started: float  # monotonic clock when the command began; one clock for all processes of a machine
    number: int = 1  # of the fronts started so far, which one
    deployment: int = 1  # of an engine: which model it serves
    incarnation: int = 1
    listener: int = -1  # inherited file descriptor
    pulse: str = ""  # the page it writes, see observe.pulse
    beside: bool = False  # of an engine: another serves meanwhile, so look for room before anything is loaded
    promised: int = 0  # bytes that count as free although other engines have them: not touched yet
    earlier: Identity | None = None  # what engines before have served: what it must serve too
    texts: tuple[TextMark, ...] = ()  # of the role that has no model: the files that its engine knows
    vocab_size: int = 0  # of the model, and the tokens that end its answers: for the role that has no model
    eos_ids: tuple[int, ...] = ()

    @property
    def files(self) -> ModelFiles:
        return ModelFiles(self.model_name, Path(self.model_root), self.model_sha256)


@dataclass(frozen=True)
class Order:
    """A front's order to serve another model."""

    id: str
    model: str  # as it was named
    name: str  # the rest: its files, found
    root: str
    sha256: str | None
    mode: Literal["beside", "drain"]

    @property
    def files(self) -> ModelFiles:
        return ModelFiles(self.name, Path(self.root), self.sha256)


def start_role(role: str, line: socket.socket, *listeners: socket.socket) -> subprocess.Popen[bytes]:
    """A fresh interpreter of radixmill.launch at the other end of `line`."""
    return subprocess.Popen(
        # -P: nothing is imported from the folder we happen to be in, which may hold a stranger's model. ps shows the role.
        [sys.executable, "-P", "-m", "radixmill.launch", role, str(line.fileno())],
        pass_fds=(line.fileno(), *(listener.fileno() for listener in listeners)),
        stdin=subprocess.DEVNULL,
        env=_environment(role),
    )


def send(line: socket.socket, value: Any) -> None:
    """One line of JSON. Raises OSError."""
    line.sendall(msgspec.json.encode(value) + b"\n")


def say(control: socket.socket, **event: Any) -> None:
    """A child's word to the supervisor, which may be gone."""
    with contextlib.suppress(OSError):
        control.setblocking(True)
        send(control, event)


def first_line(control: socket.socket) -> bytes:
    """The first line, and not a byte more: what follows is the role's to read."""
    while True:
        seen = control.recv(1 << 20, socket.MSG_PEEK)
        if not seen:
            raise SystemExit(1)
        if b"\n" in seen:
            return control.recv(seen.index(b"\n") + 1)
        time.sleep(0.001)


def _environment(role: str) -> dict[str, str]:
    """NumPy's own thread pools would only fight ours; children must find the package as we did. Keys are the fronts' alone."""
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **{name: value for name, value in os.environ.items() if role == "front" or name not in KEY_VARIABLES},
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
