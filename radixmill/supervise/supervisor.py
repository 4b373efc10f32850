"""The supervisor: owns the listening socket, starts the processes, restarts those that die or hang.

supervisor ──control──▶ front     the engines' whereabouts, other models to serve, drain
           ──control──▶ engine    its end of stream means: stop
           ◀─control──            that it is up, progress, why it cannot start; orders for other models
           ◀──pulse───            whether it moves, and what it computes (shared memory)
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import selectors
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from radixmill.core.config import Config
from radixmill.observe.pulse import EnginePulse, FrontPulse
from radixmill.observe.watch import Watch
from radixmill.store import ModelFiles
from radixmill.supervise.address import listen
from radixmill.supervise.blame import stopped
from radixmill.supervise.boot import Boot, Order, send, start_role
from radixmill.supervise.child import Child, bury_strangers
from radixmill.supervise.deployment import CRASH_LIMIT, Deployment
from radixmill.supervise.rollout import GRACE, Fault, Rollouts

log = logging.getLogger("radixmill.supervisor")

LAST_WORDS = 2.0  # seconds that fronts have to end their streams when all must end at once


class Supervisor:
    """Runs an engine for each deployment, and the fronts where there are any."""

    def __init__(
        self,
        config: Config,
        files: ModelFiles,
        *,
        started: float,
        front: bool = True,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`on_event` hears what a front would hear, for a client inside this process; that client writes `local`."""
        self.config, self.started = config, started
        self.listener = listen(config.server.host, config.server.port) if front else None
        self._on_event = on_event
        self._folder = Path(tempfile.mkdtemp(prefix="radixmill-", dir=_memory()))
        self.local = FrontPulse(self._folder / "local.pulse")
        self._selector = selectors.DefaultSelector()
        self._condemned: deque[None] = deque()  # said by the client in this process
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._numbers = itertools.count(1)
        self.deployments: list[Deployment] = []
        self.current = self.add(config, files)
        self.fronts: list[Child] = []
        self._rollouts = Rollouts(self, config.server.drain_timeout)
        self._front_starts = 0
        self._front_up = False  # one has come up
        self._front_crashes = 0  # deaths in a row, each without having come up
        self._front_restarts: list[float] = []  # monotonic clock: when to start another
        self._stopping = 0
        self._deadline = float("inf")
        self._exit: int | None = None

    # --- life

    def run(self) -> int:
        """Until told to stop, or until nothing can be served. Returns the exit code.

        An engine that no longer comes up is not the end: the front goes on to say so.
        """
        try:
            self.start()
            while self._exit is None:
                self.turn()
            return self._exit
        finally:
            self.close()

    def start(self) -> None:
        self.start_engine(self.current)
        if self.listener:
            for _ in range(self.config.server.fronts):
                self._start_front()

    def turn(self, timeout: float | None = None) -> None:
        """Wait for the next incident and deal with it."""
        for key, _ in self._selector.select(self._patience(timeout)):
            if key.data is None:
                self._drain_wake()
            elif key.data.process.returncode is None:  # not buried in this very turn
                self._hear(key.data)
        now = time.monotonic()
        for deployment in self.deployments:
            if deployment.restart_at is not None and now >= deployment.restart_at:
                deployment.restart_at = None
                self.start_engine(deployment)
            self._check(deployment, now)
        self._rollouts.due(now)
        for at in [at for at in self._front_restarts if now >= at]:
            self._front_restarts.remove(at)
            self._start_front()
        if self._stopping and now > self._deadline:
            log.warning("live requests did not finish in time; stopping all the same")
            self._exit = 0

    def stop(self, *_: object) -> None:
        """Finish live requests, then end; at the second call, at once. Safe in a signal handler and from any thread."""
        self._stopping += 1
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    def condemned(self) -> None:
        """The client in this process has given up a request over which engines died. From any thread."""
        self._condemned.append(None)
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    def close(self) -> None:
        """End every child and remove what was made."""
        for child in [*self.fronts, *self._engines()]:
            child.reap()
            child.pulse.close()
        self.fronts.clear()
        self.deployments.clear()
        self.current.engine = None
        if self.listener:
            self.listener.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def engine_pid(self) -> int | None:
        """Process id of the engine that new requests go to; None while there is none."""
        engine = self.current.engine
        return engine.process.pid if engine else None

    def _engines(self) -> list[Child]:
        return [deployment.engine for deployment in self.deployments if deployment.engine]

    def _patience(self, timeout: float | None) -> float | None:
        restarts = [each.restart_at for each in self.deployments if each.restart_at is not None]
        until = min([*restarts, *self._front_restarts, self._deadline, self._rollouts.deadline]) - time.monotonic()
        watches = [each.watch.interval for each in self.deployments if each.engine]
        until = min([until, *watches, *([] if timeout is None else [timeout])])
        return None if until == float("inf") else max(until, 0.0)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(64):
                pass
        while self._condemned:
            self._condemned.popleft()
            self._forgive()
        if self._stopping >= 3 or (self._stopping and self.listener is None):
            self._exit = 0
        elif self._stopping == 2:
            self._deadline = time.monotonic() + LAST_WORDS
            self.announce({"event": "drain", "seconds": 0.0})
        elif self._stopping == 1:
            self._drain()

    def _drain(self) -> None:
        seconds = self.config.server.drain_timeout
        log.info("finishing live requests (at most %g s); again to stop at once", seconds)
        self._deadline = time.monotonic() + seconds + GRACE
        self._rollouts.stop()
        self._front_restarts.clear()
        self.announce({"event": "drain", "seconds": seconds})
        if not self.fronts:
            self._exit = 0

    def announce(self, event: dict[str, Any]) -> None:
        """Tell every front, and the client in this process if there is one."""
        for child in self.fronts:
            child.tell(**event)
        if self._on_event:
            self._on_event(event)

    # --- children

    def add(self, config: Config, files: ModelFiles) -> Deployment:
        """A deployment that has no engine yet."""
        self.deployments.append(Deployment(next(self._numbers), config, files, Watch(config.server.stall_timeout)))
        return self.deployments[-1]

    def remove(self, deployment: Deployment) -> None:
        """End a deployment's engine, and forget it."""
        self.end_engine(deployment)
        self.deployments.remove(deployment)
        for path in self._folder.glob(f"engine-{deployment.number}.*"):
            path.unlink(missing_ok=True)

    def end_engine(self, deployment: Deployment) -> None:
        """At once: nothing that it does is wanted any more."""
        engine, deployment.engine, deployment.restart_at = deployment.engine, None, None
        if engine:
            self._selector.unregister(engine.control)
            engine.reap()
            engine.pulse.close()

    def start_engine(self, deployment: Deployment, *, beside: bool = False) -> None:
        """`beside`: look for room first, because another one serves meanwhile."""
        deployment.incarnations += 1
        deployment.watch.begin()
        deployment.nurse.begin()
        name = f"engine-{deployment.number}.{deployment.incarnations}"
        path, pulse = self._folder / f"{name}.sock", self._folder / f"{name}.pulse"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(64)
            boot = Boot(
                "engine",
                deployment.config,
                deployment.files.name,
                str(deployment.files.root),
                deployment.files.sha256,
                time.monotonic() if deployment.up else self.started,
                deployment=deployment.number,
                incarnation=deployment.incarnations,
                listener=listener.fileno(),
                pulse=str(pulse),
                beside=beside,
                promised=sum(engine.untouched() for engine in self._engines()),
            )
            deployment.engine = self._spawn(boot, deployment.incarnations, listener, EnginePulse(pulse))
        deployment.event = {
            "event": "engine",
            "deployment": deployment.number,
            "path": str(path),
            "pulse": str(pulse),
            "incarnation": deployment.incarnations,
        }
        self.announce(deployment.event)

    def _start_front(self) -> None:
        assert self.listener
        self._front_starts += 1
        current = self.current
        pulse = self._folder / f"front-{self._front_starts}.pulse"
        boot = Boot(
            "front",
            current.config,
            current.files.name,
            str(current.files.root),
            current.files.sha256,
            self.started if self._front_starts <= self.config.server.fronts else time.monotonic(),
            number=self._front_starts,
            deployment=current.number,
            listener=self.listener.fileno(),
            pulse=str(pulse),
        )
        front = self._spawn(boot, self._front_starts, self.listener, FrontPulse(pulse))
        self.fronts.append(front)
        front.tell(**current.event)
        self._rollouts.front_started(front)

    def _spawn(self, boot: Boot, number: int, listener: socket.socket, pulse: EnginePulse | FrontPulse) -> Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = start_role(boot.role, theirs, listener)
        child = Child(boot.role, number, process, ours, pulse)
        with contextlib.suppress(OSError):  # a child that is gone already is noticed by the loop
            send(ours, boot)
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _hear(self, child: Child) -> None:
        events = child.heard()
        if events is None:
            self._bury(child)
            return
        for event in events:
            match event:
                case {"event": "cannot_start", "message": str(message)}:
                    child.excuse, child.no_room = message, bool(event.get("no_room"))
                case {"event": "deploy"}:
                    self._rollouts.take(child, msgspec.convert(event["order"], Order), time.monotonic())
                case {"event": "prepared" | "unprepared" | "switched" | "released"}:
                    self._rollouts.heard(child, event)
                case {"event": "progress"}:
                    child.progressed = True
                case {"event": "condemned"}:
                    self._forgive()
                case {"event": "up"}:
                    child.up = True
                    if child.role == "engine":
                        child.reserved = event.get("bytes", 0)
                        self._come_up(child, event["tokens"], event["context"])
                    else:
                        child.progressed = self._front_up = True

    def _forgive(self) -> None:
        """The request that engines died over is not tried again: that is as good as a token."""
        for deployment in self.deployments:
            deployment.crashes = 0

    def _come_up(self, engine: Child, tokens: int, context: int) -> None:
        deployment = self._of(engine)
        deployment.up = True
        deployment.pin(tokens, context)
        self._rollouts.advance()

    def _of(self, engine: Child) -> Deployment:
        return next(deployment for deployment in self.deployments if deployment.engine is engine)

    # --- death

    def _check(self, deployment: Deployment, now: float) -> None:
        """Kill its engine if it has stalled; the end of its line is heard next."""
        engine = deployment.engine
        if engine is None or engine.verdict:
            return
        pulse, watch = engine.pulse, deployment.watch if engine.up else deployment.nurse
        assert isinstance(pulse, EnginePulse)
        busy, asked = pulse.busy or not engine.up, self._asked()
        if asked and not busy:
            engine.nudge()
        if watch.look(pulse.beats, busy or asked, now):
            engine.verdict = f"no progress for {watch.patience:g} s"
            engine.innocent = stopped(engine.process.pid)
            log.error("engine %d is wedged (%s); killing it", engine.number, engine.verdict)
            engine.process.kill()

    def _asked(self) -> bool:
        """Whether some front waits for something."""
        pulses = [self.local, *(front.pulse for front in self.fronts)]
        return any(pulse.asked for pulse in pulses if isinstance(pulse, FrontPulse))

    def _bury(self, child: Child) -> None:
        """A child's line is dead: reap it, and start another unless that is pointless."""
        self._selector.unregister(child.control)
        status = child.reap(kill=child.role == "engine", patience=1.0)
        cause = child.cause(status)
        if child.role == "front":
            self._bury_front(child, cause)
        else:
            child.innocent |= not child.verdict and child.blame.foreign(status)
            self._bury_engine(child, self._of(child), cause)
        child.pulse.close()
        if os.getpid() == 1:
            bury_strangers(each.process.pid for each in [*self.fronts, *self._engines()])

    def _bury_front(self, child: Child, cause: str) -> None:
        self.fronts.remove(child)
        self._rollouts.front_gone(child)
        if self._stopping:
            if not self.fronts:
                self._exit = 0
            return
        self._front_crashes = 1 if child.progressed else self._front_crashes + 1
        if not self._front_up and (child.excuse or not child.progressed):
            self._give_up_start(child, cause, self.current)
        elif self._front_crashes >= CRASH_LIMIT:
            log.error("the front died %d times in a row without being ready (%s); ending", self._front_crashes, cause)
            self._exit = 1
        else:
            log.error("front %d died (%s); starting another", child.number, cause)
            pause = 0.0 if self._front_crashes == 1 else 0.1 * 2**self._front_crashes
            self._front_restarts.append(time.monotonic() + pause)

    def _bury_engine(self, child: Child, deployment: Deployment, cause: str) -> None:
        assert isinstance(child.pulse, EnginePulse)
        struck = child.pulse.flying()
        if not deployment.up and (child.excuse or not child.progressed):
            deployment.engine = None
            self._give_up_start(child, cause, deployment)
            return
        pause = deployment.bereave()
        if pause is None:
            detail = f"the engine died {deployment.crashes} times in a row without a token"
            log.error("%s (%s); not restarting it", detail, cause)
            if self._rollouts.engine_failed(deployment, "engine", detail):
                return
            deployment.event = {"event": "failed", "deployment": deployment.number, "detail": detail}
            self.announce(deployment.event)
            return
        log.error("engine %d died (%s); starting another", child.number, cause)
        if child.innocent and deployment.crashes == 1:  # if it comes again before a token, we are no longer so sure
            struck = frozenset()
        self.announce({"event": "died", "deployment": deployment.number, "struck": sorted(struck), "cause": cause})
        if pause:
            deployment.restart_at = time.monotonic() + pause
        else:
            self.start_engine(deployment)

    def _give_up_start(self, child: Child, cause: str, deployment: Deployment) -> None:
        """It never came up: what is wrong will be wrong again."""
        message = child.excuse or f"the {child.role} ended while it was starting ({cause})"
        fault: Fault = "room" if child.no_room else "model" if child.excuse else "engine"
        if child.role == "engine" and self._rollouts.engine_failed(deployment, fault, message):
            return
        print(f"radixmill: error: {message}", file=sys.stderr)
        self.announce({"event": "failed", "deployment": deployment.number, "detail": message})
        self._exit = 0 if self._stopping else 2 if child.excuse else 1


def _memory() -> str | None:
    """A folder in memory, where there is one: a disk that fills up must not keep another engine from starting."""
    memory = "/dev/shm"
    return memory if sys.platform == "linux" and os.access(memory, os.W_OK | os.X_OK) else None
