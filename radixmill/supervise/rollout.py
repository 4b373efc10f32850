"""From the order to serve another model to the last front's word that it has let go of the old one.

beside   order → prepare (text loads, an engine starts) → prepared by all fronts → switch → switched by all → done
drain    order → hold (no new work) → released by all fronts → the old engine ends → as above

What fails on the way ends the new one: the old one serves on or, in mode drain, again. Knows no sockets and no processes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from radixmill.core.config import Config, with_model
from radixmill.store import ModelFiles
from radixmill.supervise import words
from radixmill.supervise.boot import Order
from radixmill.supervise.child import Child
from radixmill.supervise.deployment import Deployment

log = logging.getLogger("radixmill.supervisor")

Fault = Literal["", "busy", "stopping", "room", "engine", "model"]  # why an order failed; "": it did not
GRACE = 10.0  # seconds beyond their own deadline that fronts have to end what they drain
ANSWER = 120.0  # seconds that fronts have to get ready for a model whose engine is up, and to switch to it


class Fleet(Protocol):
    """The processes, as far as a rollout moves them."""

    current: Deployment  # the one that new requests go to

    @property
    def fronts(self) -> Sequence[Child]: ...

    @property
    def deployments(self) -> Sequence[Deployment]: ...

    def announce(self, event: dict[str, Any]) -> None:
        """Tell every front."""

    def add(self, config: Config, files: ModelFiles) -> Deployment:
        """A deployment that has no engine yet."""

    def start_engine(self, deployment: Deployment, *, beside: bool = False) -> None: ...

    def end_engine(self, deployment: Deployment) -> None: ...

    def remove(self, deployment: Deployment) -> None:
        """End its engine, and forget it."""


@dataclass(eq=False)
class _Rollout:
    """An order that is being carried out."""

    order: Order
    asker: Child
    old: Deployment
    new: Deployment
    phase: Literal["draining", "preparing", "switching"]
    waiting: set[Child] = field(default_factory=set)  # fronts that are not prepared or, later, have not switched
    deadline: float = float("inf")  # monotonic clock: when the phase is over for whoever does not answer
    killed: bool = False  # fronts, because they did not get ready


class Rollouts:
    """Carries out one order at a time. Retiring deployments are let go of whenever that may be."""

    def __init__(self, fleet: Fleet, drain_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet, self._drain_timeout, self._clock = fleet, drain_timeout, clock
        self._now: _Rollout | None = None
        self._stopping = False

    @property
    def deadline(self) -> float:
        """Monotonic clock: when `due` has something to do."""
        return self._now.deadline if self._now else float("inf")

    def take(self, front: Child, order: Order, now: float) -> None:
        """A front asks for another model, whose text it has found good."""
        if self._now or self._stopping:
            self._answer(front, order.id, "stopping" if self._stopping else "busy")
            return
        fleet = self._fleet
        old, fronts = fleet.current, set(fleet.fronts)
        new = fleet.add(with_model(old.wanted, order.model), order.files)
        log.info("loading %s %s", order.files.name, "beside the old model" if order.mode == "beside" else "once idle")
        if order.mode == "beside":
            self._now = _Rollout(order, front, old, new, "preparing", fronts)
            fleet.announce(self._preparation(self._now))
            fleet.start_engine(new, beside=True)
        else:
            until = now + self._drain_timeout + GRACE
            self._now = _Rollout(order, front, old, new, "draining", fronts, until)
            old.holders = set(fronts)
            fleet.announce(self._preparation(self._now))
            fleet.announce(_hold(order))
            self._drained()

    def heard(self, front: Child, word: words.Stage) -> None:
        """What a front says of a deployment."""
        deployment = next((each for each in self._fleet.deployments if each.number == word.deployment), None)
        if deployment is None:
            return
        rollout = self._now if self._now and deployment is self._now.new else None
        switching = rollout is not None and rollout.phase == "switching"
        match word:
            case words.Released() if not word.order or (self._now and word.order == self._now.order.id):
                self._release(deployment, front)
            case words.Unprepared() if rollout and not switching:
                self._fail("model", word.message)
            case words.Prepared() | words.Switched() if rollout and isinstance(word, words.Switched) == switching:
                rollout.waiting.discard(front)
                self.advance()

    def front_started(self, front: Child) -> None:
        """One that was told of the current deployment only."""
        if self._now and self._now.phase != "switching":
            front.tell(**self._preparation(self._now))
            if self._now.order.mode == "drain":
                front.tell(**_hold(self._now.order))
            if self._now.phase == "draining":  # it may come up on the old model before it hears that
                self._now.old.holders.add(front)
            if self._now.new.event:
                front.tell(**self._now.new.event)
            self._now.waiting.add(front)

    def front_gone(self, front: Child) -> None:
        """Its requests are gone with it."""
        for deployment in [each for each in self._fleet.deployments if front in each.holders]:
            self._release(deployment, front)
        if self._now:
            self._now.waiting.discard(front)
            self.advance()

    def engine_failed(self, deployment: Deployment, fault: Fault, message: str) -> bool:
        """An engine will not come up (any more). Whether that is all there is to it: it was of a new deployment."""
        if not self._now or deployment is not self._now.new or self._now.phase == "switching":
            return False
        self._fail(fault, message)
        return True

    def advance(self) -> None:
        """Do what nothing stands in the way of any more."""
        match self._now:
            case _Rollout(phase="preparing", waiting=waiting, new=new) if not waiting and new.up:
                self._switch(self._now)
            case _Rollout(phase="preparing", new=new, deadline=deadline) if new.up and deadline == float("inf"):
                self._now.deadline = self._clock() + ANSWER
            case _Rollout(phase="switching", waiting=waiting, new=new) if not waiting:
                log.info("%s serves now", new.files.name)
                self._answer(self._now.asker, self._now.order.id)
                self._now = None

    def due(self, now: float) -> None:
        rollout = self._now
        if not rollout or now < rollout.deadline:
            return
        if rollout.phase == "draining":
            log.warning("live requests did not finish in time; the old model ends all the same")
            for deployment in self._fleet.deployments:
                deployment.holders.clear()
            self._drained()
        elif rollout.phase == "preparing" and rollout.killed:
            self._fail("engine", "the fronts do not get ready for it")
        else:
            rollout.deadline, rollout.killed = now + ANSWER, True
            for front in rollout.waiting:  # others take their place, and get ready for it or come up on it
                front.kill(f"no answer for {ANSWER:g} s")

    def stop(self) -> None:
        """The server ends: no new deployment takes over any more."""
        self._stopping = True
        if self._now and self._now.phase != "switching":
            asker, order = self._now.asker, self._now.order.id
            self._fleet.remove(self._now.new)
            self._now = None
            self._answer(asker, order, "stopping")

    def _preparation(self, rollout: _Rollout) -> dict[str, Any]:
        new = rollout.new
        return {
            "event": "prepare",
            "deployment": new.number,
            "order": rollout.order.id,
            "config": asdict(new.wanted),
            "name": new.files.name,
            "root": str(new.files.root),
            "sha256": new.files.sha256,
        }

    def _switch(self, rollout: _Rollout) -> None:
        """From here on nothing can fail."""
        fronts = self._fleet.fronts
        rollout.phase, rollout.waiting = "switching", set(fronts)
        rollout.deadline = self._clock() + ANSWER
        self._fleet.current = rollout.new
        rollout.old.retiring, rollout.old.holders = True, set(fronts)
        self._fleet.announce({"event": "switch", "deployment": rollout.new.number})
        if not fronts:
            self._let_go(rollout.old)
        self.advance()

    def _release(self, deployment: Deployment, front: Child) -> None:
        deployment.holders.discard(front)
        self._let_go(deployment)

    def _let_go(self, deployment: Deployment) -> None:
        if deployment.retiring and not deployment.holders:
            log.info("nothing runs on %s any more; its engine ends", deployment.files.name)
            self._fleet.remove(deployment)
        self._drained()

    def _drained(self) -> None:
        """In mode drain: once nobody has work for the old engines, they make room."""
        rollout = self._now
        if not rollout or rollout.phase != "draining" or any(each.holders for each in self._fleet.deployments):
            return
        retiring = [each for each in self._fleet.deployments if each.retiring]
        for each in [*retiring, rollout.old]:  # told before its connections break: nobody comes after these
            self._fleet.announce({"event": "ended", "deployment": each.number})
        for each in retiring:
            self._fleet.remove(each)
        rollout.phase, rollout.deadline = "preparing", float("inf")
        self._fleet.end_engine(rollout.old)
        self._fleet.start_engine(rollout.new)

    def _fail(self, fault: Fault, message: str) -> None:
        rollout, self._now = self._now, None
        assert rollout
        log.error("%s was not loaded: %s", rollout.order.files.name, message)
        self._fleet.announce({"event": "forget", "deployment": rollout.new.number})
        self._fleet.remove(rollout.new)
        if rollout.order.mode == "drain":
            rollout.old.holders.clear()
            if rollout.phase == "preparing":
                self._fleet.start_engine(rollout.old)
            self._fleet.announce({"event": "resume"})
        self._answer(rollout.asker, rollout.order.id, fault, message)

    def _answer(self, front: Child, order: str, fault: Fault = "", message: str = "") -> None:
        front.tell(event="deployed", order=order, fault=fault, message=message)


def _hold(order: Order) -> dict[str, Any]:
    return {"event": "hold", "order": order.id}
