"""The loop: who runs next, run it, tell the fronts. Synchronous; the only thread of the engine that decides anything."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol, assert_never

import msgspec

from radixmill.core.messages import Cancel, Control, Deltas, Ready, Reply, Submit, ToEngine, TokenDelta
from radixmill.core.plan import Executor, StepPlan, Ticket
from radixmill.core.request import Constraint
from radixmill.core.spec import ModelSpec
from radixmill.engine.grammar import Built, Grammars, Refused
from radixmill.engine.schedule import Scheduler
from radixmill.link.socket import EngineSocket, Joined, Left, Peer, Said, Woken
from radixmill.observe.pulse import EnginePulse

log = logging.getLogger("radixmill.engine")


class Progress(Protocol):
    """Told once, when the first token of this incarnation has been committed."""

    def __call__(self) -> None: ...


class Engine:
    """One incarnation of an engine."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        link: EngineSocket,
        *,
        incarnation: int = 1,
        overlap: bool = False,
        grammars: Grammars | None = None,
        pulse: EnginePulse | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """`grammars`: those of the scheduler. `pulse`: where we show that we live; None: nobody looks."""
        self.scheduler, self.executor, self.link = scheduler, executor, link
        self._grammars, self._pulse = grammars, pulse or EnginePulse.private()
        self._asked: list[tuple[Peer, Control]] = []  # about grammars that are being built
        self._ready = Ready(executor.spec, incarnation)
        self._overlap = overlap
        self._on_progress = on_progress
        self._stopping = False
        self._verbs: dict[str, Callable[..., dict[str, Any]]] = {
            "stats": self._stats,
            "flush_cache": self._flush_cache,
        }

    def run(self) -> None:
        """Serve until `stop`, or until the supervisor is gone (EOFError)."""
        flying: tuple[StepPlan, Ticket] | None = None
        while not self._stopping:
            self._intake(wait=flying is None and self.scheduler.idle)
            self._send(self.scheduler.pending())  # what grammars forced at once comes before what a step samples
            plan = self.scheduler.schedule()
            ticket = self._launch(plan) if plan else None
            if flying:
                self._land(*flying)
            if plan and ticket:
                masks = self.scheduler.masks(plan)
                self._pulse.beat()
                ticket.sample(masks)
                self._pulse.beat()
            flying = (plan, ticket) if plan and ticket else None
            if flying and not self._overlap:
                self._land(*flying)
                flying = None
            self._send(self.scheduler.pending())

    def stop(self) -> None:
        self._stopping = True

    def _launch(self, plan: StepPlan) -> Ticket:
        """Say first whom it computes: if that kills us, they are suspects."""
        self._pulse.launched(plan.step, self.scheduler.flying(plan))
        return self.executor.launch(plan)

    def _land(self, plan: StepPlan, ticket: Ticket) -> None:
        deltas = self.scheduler.commit(plan, ticket.result())
        self._pulse.landed(plan.step)
        self._send(deltas)
        if deltas and self._on_progress:
            self._on_progress()
            self._on_progress = None

    def _send(self, deltas: list[tuple[Any, TokenDelta]]) -> None:
        """One message per front and step."""
        if not deltas:
            return
        per_peer: defaultdict[Peer, list[TokenDelta]] = defaultdict(list)
        for peer, delta in deltas:
            per_peer[peer].append(delta)
        for peer, items in per_peer.items():
            self.link.send(peer, Deltas(tuple(items)))

    def _intake(self, *, wait: bool) -> None:
        self._pulse.load(**self.scheduler.load())
        for incident in self.link.poll(self.scheduler.patience.left() if wait else 0):
            match incident:
                case Joined(peer):
                    self.link.send(peer, self._ready)
                case Left(peer):
                    self.scheduler.drop_client(peer)
                    self._asked = [asked for asked in self._asked if asked[0] is not peer]
                case Woken():
                    self._built()
                case Said(peer, message):
                    self._hear(peer, message)
                case _:
                    assert_never(incident)
        if wait:  # whoever wonders whether we live nudges us
            self._pulse.beat()

    def _hear(self, peer: Peer, message: ToEngine) -> None:
        self._pulse.beat()  # thousands may come at once, from fronts whose engine has died
        match message:
            case Submit() if fault := implausible(message, self.executor.spec):
                log.error("dropped a peer whose request has %s", fault)
                self.link.drop(peer)
            case Submit():
                self._pulse.hearing([start.seq for start in message.seqs])
                self.scheduler.submit(peer, message)
                self._pulse.hearing(())
            case Cancel():
                self.scheduler.cancel(peer, message.seq)
            case Control():
                self._pulse.hearing([message.id])
                self._hear_question(peer, message)
                self._pulse.hearing(())
            case _:
                assert_never(message)

    def _hear_question(self, peer: Peer, question: Control) -> None:
        if question.verb == "grammar":
            self._asked.append((peer, question))
            self._answer_asked()
        else:
            self.link.send(peer, self._answer(question))

    def _built(self) -> None:
        """Some grammar has been built, or refused."""
        assert self._grammars is not None
        self._pulse.beat()
        self._grammars.poll()
        self.scheduler.bind_waiting(self._pulse.hearing)
        self._pulse.hearing(())
        self._answer_asked()

    def _answer_asked(self) -> None:
        """Say of each grammar asked about whether it can be had, as soon as that is known."""
        open = []
        for peer, question in self._asked:
            if (answer := self._verdict(question)) is None:
                open.append((peer, question))
            else:
                self.link.send(peer, Reply(question.id, True, answer))
        self._asked = open

    def _verdict(self, question: Control) -> dict[str, Any] | None:
        if self._grammars is None:
            return {"reason": "this engine has no grammars", "place": ""}
        try:
            wanted = msgspec.convert(question.args, Constraint)
        except msgspec.ValidationError as error:
            return {"reason": str(error), "place": ""}
        match self._grammars.want(wanted, question.id):
            case Refused(reason, place):
                return {"reason": reason, "place": place}
            case Built():
                return {}
        return None

    def _answer(self, question: Control) -> Reply:
        verb = self._verbs.get(question.verb)
        if verb is None:
            return Reply(question.id, False, error=f"the engine knows no verb {question.verb!r}")
        try:
            return Reply(question.id, True, verb(**question.args))
        except TypeError as error:
            return Reply(question.id, False, error=f"{question.verb}: {error}")

    def _stats(self) -> dict[str, Any]:
        grammars = self._grammars.stats() if self._grammars else {}
        return {**self.scheduler.stats(), **self.executor.stats(), **grammars}

    def _flush_cache(self) -> dict[str, Any]:
        return {"freed_pages": self.scheduler.flush_cache()}


def implausible(message: Submit, spec: ModelSpec) -> str:
    """What no front of ours would send, if it is that; fronts have checked all else. Such ids would be our end."""
    lines = (message.request.prompt, *(start.output for start in message.seqs))
    if any(min(line) < 0 or max(line) >= spec.vocab_size for line in lines if line):
        return "a token id that the model does not have"
    if not all(0 <= start.seq < 1 << 63 and 0 <= start.seed < 1 << 64 for start in message.seqs):
        return "a sequence or a seed out of range"
    return "a length below zero" if message.request.sampling.max_tokens < 0 else ""
