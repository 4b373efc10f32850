"""The supervisor: owns the listening socket, starts the processes, restarts those that die or hang.

supervisor ──control──▶ front     the engines' whereabouts, other models to serve, drain
           ──control──▶ engine    its end of stream means: stop
           ◀─control──            that it is up, progress, why it cannot start; orders for other models (words.py)
           ◀──pulse───            whether it moves, and what it computes (shared memory)

Nothing that a child does or fails to do, and no want of memory or processes, ends the loop or blocks it.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from radixmill.core.config import LAST_WORDS, Config
from radixmill.core.errors import CannotStart
from radixmill.observe.log import tell
from radixmill.observe.pulse import EnginePulse, FrontPulse
from radixmill.observe.watch import Watch
from radixmill.store import ModelFiles
from radixmill.supervise import words
from radixmill.supervise.address import listen
from radixmill.supervise.blame import stopped
from radixmill.supervise.child import Child, bury_strangers
from radixmill.supervise.children import Children
from radixmill.supervise.deployment import Deployment
from radixmill.supervise.folder import Folder
from radixmill.supervise.fronts import Fronts
from radixmill.supervise.rollout import GRACE, Fault, Rollouts
from radixmill.supervise.starter import Starter, no_start

log = logging.getLogger("radixmill.supervisor")

RETRY = 1.0  # seconds until another try to start a process, if the system had no room for it
MARGIN = 2.0  # seconds beyond their last words that fronts have to end when all must end at once


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
        try:
            self._folder = Folder()
            self.local = self._folder.make(lambda folder: FrontPulse(folder / "local.pulse"))
            self._children = Children()
        except OSError as error:
            raise no_start("the private folder can't be made", error) from None
        self._starter = Starter(self._folder, self._children)
        self._condemned: deque[int] = deque()  # deployments, said by the client in this process
        self._numbers = itertools.count(1)
        self.deployments: list[Deployment] = []
        self.current = self.add(config, files)
        self._fronts = Fronts(config.server.fronts, config.server.stall_timeout)
        self._rollouts = Rollouts(self, config.server.drain_timeout)
        self._begun = False  # every process has been started once
        self._stopping = 0  # times that we were told to stop,
        self._obeyed = 0  # and that we have done something about it
        self._deadline = float("inf")
        self._exit: int | None = None

    # --- life

    def run(self) -> int:
        """Until told to stop, or until nothing can be served. Returns the exit code. Raises CannotStart.

        An engine that no longer comes up is not the end: the front goes on to say so.
        """
        try:
            self.start()
            while self._exit is None:
                self.turn()
            return self._exit
        except CannotStart as error:
            if self._on_event is None:
                raise
            self.announce({"event": "failed", "deployment": self.current.number, "detail": str(error)})
            return 2
        finally:
            self.close()

    def start(self) -> None:
        """Raises CannotStart where the system has no room for the processes."""
        self.start_engine(self.current)
        if self.listener:
            for _ in range(self._fronts.wanted):
                self._start_front()
        self._begun = True

    def turn(self, timeout: float | None = None) -> None:
        """Wait for the next incident and deal with it."""
        for child in self._children.wait(self._patience(timeout)):
            if child is None:
                self._wake_up()
            else:
                self._hear(child)
        now = time.monotonic()
        for deployment in list(self.deployments):
            if deployment.restart_at is not None and now >= deployment.restart_at:
                self.start_engine(deployment, beside=deployment.beside)
            self._check(deployment, now)
        self._rollouts.due(now)
        for _ in range(self._fronts.due(now)):
            self._start_front()
        if self._stopping and now > self._deadline:
            log.warning("live requests did not finish in time; stopping all the same")
            self._exit = 0
        else:
            self._fronts.look(now)

    def stop(self, *_: object) -> None:
        """Finish live requests, then end; at the second call, at once. Safe in a signal handler and from any thread."""
        self._stopping += 1
        self._children.wake()

    def condemned(self) -> None:
        """The client in this process has given up a request over which engines died. From any thread."""
        self._condemned.append(self.current.number)
        self._children.wake()

    def close(self) -> None:
        """End every child and remove what was made."""
        self._children.close()
        self._fronts.clear()
        self.deployments.clear()
        self.current.engine = None
        if self.listener:
            self.listener.close()
        self._folder.remove()

    @property
    def engine_pid(self) -> int | None:
        """Process id of the engine that new requests go to; None while there is none."""
        engine = self.current.engine
        return engine.process.pid if engine else None

    @property
    def fronts(self) -> list[Child]:
        return self._fronts.live

    def _engines(self) -> list[Child]:
        return [deployment.engine for deployment in self.deployments if deployment.engine]

    def _patience(self, timeout: float | None) -> float | None:
        restarts = [each.restart_at for each in self.deployments if each.restart_at is not None]
        until = min([*restarts, *self._fronts.restarts, self._deadline, self._rollouts.deadline]) - time.monotonic()
        watches = [each.watch.interval for each in self.deployments if each.engine]
        until = min([until, self._fronts.interval, *watches, *([] if timeout is None else [timeout])])
        return None if until == float("inf") else max(until, 0.0)

    def _wake_up(self) -> None:
        """One wake may stand for several calls, and any call may come with one that has been obeyed."""
        while self._condemned:
            self._forgive(self._condemned.popleft())
        obeyed, self._obeyed = self._obeyed, self._stopping
        if self._obeyed == obeyed:
            return
        if self._obeyed >= 3 or self.listener is None:
            self._exit = 0
            return
        if not obeyed:
            self._drain()
        if self._obeyed == 2:
            self._deadline = time.monotonic() + LAST_WORDS + MARGIN
            self.announce({"event": "drain", "seconds": 0.0})

    def _drain(self) -> None:
        seconds = self.config.server.drain_timeout
        log.info("finishing live requests (at most %g s); again to stop at once", seconds)
        self._deadline = time.monotonic() + seconds + GRACE
        self._rollouts.stop()
        self._fronts.restarts.clear()
        self.announce({"event": "drain", "seconds": seconds})
        if not self.fronts:
            self._exit = 0

    def announce(self, event: dict[str, Any]) -> None:
        """Tell every front, and the client in this process if there is one."""
        for child in self.fronts:
            child.tell(**event)
        if self._on_event:
            self._on_event(event)

    # --- starts

    def add(self, config: Config, files: ModelFiles) -> Deployment:
        """A deployment that has no engine yet."""
        self.deployments.append(Deployment(next(self._numbers), config, files, Watch(config.server.stall_timeout)))
        return self.deployments[-1]

    def remove(self, deployment: Deployment) -> None:
        """End a deployment's engine, and forget it."""
        self.end_engine(deployment)
        self.deployments.remove(deployment)

    def end_engine(self, deployment: Deployment) -> None:
        """At once: nothing that it does is wanted any more."""
        engine, deployment.engine, deployment.restart_at = deployment.engine, None, None
        if engine:
            self._children.end(engine)
            engine.pulse.close()

    def start_engine(self, deployment: Deployment, *, beside: bool = False) -> None:
        """`beside`: look for room first, because another one serves meanwhile. If the system has no room for a process, that
        is tried again later, or fails the order. Raises CannotStart when the server has not begun."""
        deployment.begin(beside=beside)
        started = time.monotonic() if deployment.up else self.started
        try:
            self._starter.engine(deployment, started, sum(engine.untouched() for engine in self._engines()))
        except CannotStart as failure:
            if not self._begun:
                raise
            if not self._rollouts.engine_failed(deployment, "engine", failure.message):
                log.error("%s; trying again", failure.message)
                deployment.restart_at = time.monotonic() + RETRY
            return
        self.announce(deployment.event)

    def _start_front(self) -> None:
        assert self.listener
        started = time.monotonic() if self._begun else self.started
        try:
            front = self._starter.front(self.current, started, self.listener)
        except CannotStart as failure:
            if not self._begun:
                raise
            log.error("%s; trying again", failure.message)
            self._fronts.restarts.append(time.monotonic() + RETRY)
            return
        self._fronts.add(front)
        if self.current.event:
            front.tell(**self.current.event)
        self._rollouts.front_started(front)

    # --- words

    def _hear(self, child: Child) -> None:
        try:
            said = child.heard()
        except words.Unreadable as error:
            log.error("%s %d says what can't be read (%s); killing it", child.role, child.number, error)
            child.kill("it said what can't be read")
            said = None
        if said is None:
            self._bury(child)
            return
        for word in said:
            if not child.buried:  # by what it said before
                self._obey(child, word)

    def _obey(self, child: Child, word: words.EngineWord | words.FrontWord) -> None:
        match word:
            case words.Unable():
                child.excuse, child.no_room, child.changed = word.message, word.no_room, word.changed
            case words.EngineUp():
                child.up, child.reserved = True, word.bytes
                deployment = self._of(child)
                deployment.up = True
                deployment.pin(word.tokens, word.context, word.identity)
                self._rollouts.advance()
            case words.Progress():
                child.progressed = True
            case words.FrontUp():
                self._fronts.came_up(child)
            case words.Deploy():
                self._rollouts.take(child, word.order, time.monotonic())
            case words.Condemned():
                self._forgive(word.deployment)
            case _:
                self._rollouts.heard(child, word)

    def _forgive(self, number: int) -> None:
        """The request that its engines died over is not tried again: that is as good as a token."""
        for deployment in self.deployments:
            if deployment.number == number:
                deployment.crashes = 0

    def _of(self, engine: Child) -> Deployment:
        return next(deployment for deployment in self.deployments if deployment.engine is engine)

    # --- death

    def _check(self, deployment: Deployment, now: float) -> None:
        """Kill its engine if it has stalled; the end of its line is heard next."""
        engine = deployment.engine
        if engine is None or engine.verdict:
            return
        engine.blame.look(now)
        pulse, watch = engine.pulse, deployment.watch if engine.up else deployment.start_watch
        assert isinstance(pulse, EnginePulse)
        busy, asked = pulse.busy or not engine.up, self._asked()
        if asked and not busy:
            engine.nudge()
        if watch.look(pulse.beats, busy or asked, now):
            engine.innocent = stopped(engine.process.pid)
            why = f"no progress for {watch.patience:g} s"
            log.error("engine %d is wedged (%s); killing it", engine.number, why)
            engine.kill(why)

    def _asked(self) -> bool:
        """Whether some front waits for something."""
        pulses = [self.local, *(front.pulse for front in self.fronts)]
        return any(pulse.asked for pulse in pulses if isinstance(pulse, FrontPulse))

    def _bury(self, child: Child) -> None:
        """A child's line is dead: reap it, and start another unless that is pointless."""
        ending = child.role == "front" and self._stopping and not child.verdict
        status = self._children.end(child, patience=1.0 if ending else 0.0)  # it may be at its last words
        cause = child.cause(status)
        if child.role == "front":
            self._bury_front(child, cause)
        else:
            child.innocent |= not child.verdict and child.blame.foreign(status)
            self._bury_engine(child, self._of(child), cause)
        child.pulse.close()
        if os.getpid() == 1 and self.listener:  # else the process is somebody else's, and so are its children
            bury_strangers(self._children.pids)

    def _bury_front(self, child: Child, cause: str) -> None:
        self._fronts.remove(child)
        self._rollouts.front_gone(child)
        if self._stopping:
            if not self.fronts:
                self._exit = 0
            return
        pause = self._fronts.bereave(child)
        if not self._fronts.ever_up and (child.excuse or not child.progressed):
            self._give_up_start(child, cause, self.current)
        elif pause is None:
            log.error("the front died %d times in a row without being ready (%s); ending", self._fronts.crashes, cause)
            self._exit = 1
        else:
            log.error("front %d died (%s); starting another", child.number, cause)
            self._fronts.restarts.append(time.monotonic() + pause)

    def _bury_engine(self, child: Child, deployment: Deployment, cause: str) -> None:
        assert isinstance(child.pulse, EnginePulse)
        struck = deployment.struck(child.pulse.flying(), innocent=child.innocent, progressed=child.progressed)
        if not deployment.up and (child.excuse or not child.progressed):
            deployment.engine = None
            self._give_up_start(child, cause, deployment)
            return
        pause = deployment.bereave()
        if child.changed:
            log.error("engine %d does not take over: %s", child.number, child.excuse)
            self._give_up(deployment, child.excuse)
            return
        if pause is None:
            detail = f"the engine died {deployment.crashes} times in a row without a token"
            log.error("%s (%s); not restarting it", detail, cause)
            self._give_up(deployment, detail)
            return
        log.error("engine %d died (%s); starting another", child.number, cause)
        self.announce({"event": "died", "deployment": deployment.number, "struck": sorted(struck), "cause": cause})
        if pause:
            deployment.restart_at = time.monotonic() + pause
        else:
            self.start_engine(deployment)

    def _give_up(self, deployment: Deployment, detail: str) -> None:
        """No engine of it will come any more."""
        if self._rollouts.engine_failed(deployment, "engine", detail):
            return
        deployment.event = {"event": "failed", "deployment": deployment.number, "detail": detail}
        self.announce(deployment.event)

    def _give_up_start(self, child: Child, cause: str, deployment: Deployment) -> None:
        """It never came up: what is wrong will be wrong again."""
        message = child.excuse or f"the {child.role} ended while it was starting ({cause})"
        fault: Fault = "room" if child.no_room else "model" if child.excuse else "engine"
        if child.role == "engine" and self._rollouts.engine_failed(deployment, fault, message):
            return
        tell(f"radixmill: error: {message}")
        self.announce({"event": "failed", "deployment": deployment.number, "detail": message})
        self._exit = 0 if self._stopping else 2 if child.excuse else 1
