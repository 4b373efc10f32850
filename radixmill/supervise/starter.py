"""How a child is started: what it inherits, what it is told, and the files that end with it."""

from __future__ import annotations

import contextlib
import itertools
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

from radixmill.core.errors import CannotStart
from radixmill.observe.pulse import EnginePulse, FrontPulse
from radixmill.supervise.boot import Boot
from radixmill.supervise.child import Child
from radixmill.supervise.children import Children
from radixmill.supervise.deployment import Deployment
from radixmill.supervise.folder import Folder, discard


class Starter:
    """Starts engines and fronts. Where the system has no room for one, nothing of it is left."""

    def __init__(self, folder: Folder, children: Children) -> None:
        self._folder, self._children = folder, children
        self._fronts = itertools.count(1)

    def engine(self, deployment: Deployment, started: float, promised: int) -> None:
        """An engine for a deployment that has begun another; it and what fronts are to be told are written there.
        `started`: see Boot. `promised`: bytes that other engines have reserved and not touched. Raises CannotStart."""
        try:
            self._folder.make(partial(self._engine, deployment, started, promised))
        except OSError as error:
            raise no_start("the engine can't be started", error) from None

    def _engine(self, deployment: Deployment, started: float, promised: int, folder: Path) -> None:
        name = f"engine-{deployment.number}.{deployment.incarnations}"
        path, page = folder / f"{name}.sock", folder / f"{name}.pulse"
        with contextlib.ExitStack() as undo, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            undo.callback(discard, (path, page))
            listener.bind(str(path))
            listener.listen(64)
            boot = replace(
                _boot("engine", deployment, listener, page),
                started=started,
                incarnation=deployment.incarnations,
                beside=deployment.beside,
                promised=promised,
            )
            pulse = EnginePulse(page)
            undo.callback(pulse.close)
            deployment.engine = self._children.start(boot, deployment.incarnations, listener, pulse, (path, page))
            undo.pop_all()
        deployment.event = {
            "event": "engine",
            "deployment": deployment.number,
            "path": str(path),
            "pulse": str(page),
            "incarnation": deployment.incarnations,
        }

    def front(self, current: Deployment, started: float, listener: socket.socket) -> Child:
        """A front that comes up on `current` and takes connections from `listener`. Raises CannotStart."""
        try:
            return self._folder.make(partial(self._front, current, started, listener, next(self._fronts)))
        except OSError as error:
            raise no_start("a front can't be started", error) from None

    def _front(self, current: Deployment, started: float, listener: socket.socket, number: int, folder: Path) -> Child:
        page = folder / f"front-{number}.pulse"
        boot = replace(_boot("front", current, listener, page), started=started, number=number)
        with contextlib.ExitStack() as undo:
            undo.callback(discard, (page,))
            pulse = FrontPulse(page)
            undo.callback(pulse.close)
            front = self._children.start(boot, number, listener, pulse, (page,))
            undo.pop_all()
        return front


def _boot(role: str, deployment: Deployment, listener: socket.socket, page: Path) -> Boot:
    """What any child is told; `started` and the rest are to be filled in."""
    files = deployment.files
    return Boot(
        role,
        deployment.config,
        files.name,
        str(files.root),
        files.sha256,
        started=0.0,
        deployment=deployment.number,
        listener=listener.fileno(),
        pulse=str(page),
    )


def no_start(what: str, error: OSError) -> CannotStart:
    """The system has no room for it."""
    return CannotStart(f"{what} ({error.strerror or error})", "Free memory, disk space or processes")
