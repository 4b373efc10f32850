"""The client half at work: an engine in another process, reached through one socket per incarnation.

When the connection breaks, the records stay; when the next incarnation is there, they are submitted again with what they
have said so far, and every stream goes on where it was.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never, cast

from radixmill.core.errors import EngineFailed, GivenUp, NotReady
from radixmill.core.messages import (
    Cancel,
    Control,
    Deltas,
    Died,
    EndReason,
    FromEngine,
    Ready,
    Reply,
    SeqStart,
    Submit,
    TokenDelta,
)
from radixmill.core.request import GenerateRequest
from radixmill.core.spec import ModelSpec
from radixmill.link.client import Health, State
from radixmill.link.codec import Frames, Garbage, decode_from_engine, frame
from radixmill.link.journal import CONDEMNED, Gap, Journal

log = logging.getLogger("radixmill.link")


RETRY, RETRY_MOST = 0.2, 1.0  # seconds between tries to reach an engine that is said to live: more each time
PATIENCE = 3  # engines that may die over a question before it is given up


@dataclass(slots=True)
class _Question:
    """A Control on its way. All verbs may be asked again: whoever comes after an engine that died is."""

    control: Control
    answer: asyncio.Future[Reply]
    deaths: int = 0


class RemoteStream:
    """One request's deltas, fed by the client."""

    def __init__(self, owner: RemoteEngine, seqs: tuple[int, ...]) -> None:
        self.seqs = seqs
        self._owner = owner
        self._live = set(seqs)
        self._queue: deque[TokenDelta] = deque()
        self._wake: asyncio.Future[None] | None = None

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        while not self._queue:
            if not self._live:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        return self._queue.popleft()

    def cancel(self, seq: int | None = None) -> None:
        for each in self.seqs if seq is None else (seq,):
            self._owner.cancel(each)

    def feed(self, delta: TokenDelta) -> None:
        self._queue.append(delta)
        if delta.end:
            self._live.discard(delta.seq)
        if self._wake and not self._wake.done():
            self._wake.set_result(None)


class RemoteEngine:
    """EngineClient over a local socket."""

    def __init__(
        self,
        first: int = 1,
        on_asked: Callable[[int], None] = lambda count: None,
        on_condemned: Callable[[], None] = lambda: None,
    ) -> None:
        """`first`: sequences and questions are numbered from it on. `on_asked` hears how many of them are unanswered;
        `on_condemned`, that a request over which engines died will not be tried again."""
        self._journal = Journal()
        self._on_asked, self._on_condemned = on_asked, on_condemned
        self._struck: list[int] = []  # sequences to be struck once the wire has said its last
        self._streams: dict[int, RemoteStream] = {}
        self._questions: dict[int, _Question] = {}
        self._ids = itertools.count(first)
        self._wire: _Wire | None = None
        self._spec: ModelSpec | None = None
        self._state: State = "loading"
        self._detail = "the model is being loaded"
        self._incarnation = 0
        self._path = ""
        self._trying: asyncio.Task[None] | None = None  # to reach the incarnation that is said to live
        self._serving = False  # whether the incarnation we are connected to has said Ready
        self._ready = asyncio.Event()

    @property
    def spec(self) -> ModelSpec | None:
        return self._spec

    def health(self) -> Health:
        return Health(self._state, self._detail, self._incarnation, len(self._journal))

    def submit(
        self, request: GenerateRequest, seeds: Sequence[int], said: Sequence[tuple[int, ...]] = ()
    ) -> RemoteStream:
        """`said`: what each sequence has said already, to go on from there; (): none has anything."""
        scores = request.sampling.prompt_logprobs is not None
        pairs = zip(seeds, said or [()] * len(seeds), strict=True)
        starts = tuple(
            SeqStart(next(self._ids), seed, output, score=scores and not i and not output)
            for i, (seed, output) in enumerate(pairs)
        )
        stream = RemoteStream(self, tuple(start.seq for start in starts))
        self._journal.open(request, starts)
        self._streams.update(dict.fromkeys(stream.seqs, stream))
        if self._state == "failed":
            self._end_all("lost", self._detail)
        elif self._serving:
            self._send(Submit(request, starts))
        self._tell_asked()
        return stream

    def cancel(self, seq: int) -> None:
        if record := self._journal.close(seq):
            self._deliver(record.ended("cancelled"))
            self._send(Cancel(seq))
            self._tell_asked()

    async def control(self, verb: str, **args: Any) -> dict[str, Any]:
        if self._spec is None or self._state == "failed":
            hopeless = self._state == "failed"
            raise NotReady(
                f"the engine is {self._state}" + ("" if hopeless else "; try again"),
                retry_after=None if hopeless else 1.0,
            )
        question = _Question(Control(next(self._ids), verb, args), asyncio.get_running_loop().create_future())
        self._questions[question.control.id] = question
        if self._serving:
            self._send(question.control)
        self._tell_asked()
        try:
            reply = await question.answer
        finally:
            self._questions.pop(question.control.id, None)
            self._tell_asked()
        if not reply.ok and question.deaths >= PATIENCE:
            raise GivenUp(f"A question about {verb}")
        if not reply.ok:
            raise EngineFailed(reply.error)
        return reply.data

    async def connect(self, path: str, incarnation: int) -> None:
        """A new incarnation listens at `path`. The old connection, if any, is given up first.

        One that can't be reached, because too many want to or too much is open, is tried again until it is said to be
        lost, or its successor is announced.
        """
        self.lost()
        if self._wire:
            self._wire.drop()
        self._path, self._incarnation = path, incarnation
        if not await self._reach(path, incarnation):
            self._try_again(incarnation)

    async def _reach(self, path: str, incarnation: int) -> bool:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: _Wire(self, incarnation), path)
        except OSError:
            return False
        return True

    def _try_again(self, incarnation: int) -> None:
        if incarnation == self._incarnation and self._path and self._state != "failed":
            if self._trying:
                self._trying.cancel()
            self._trying = asyncio.get_running_loop().create_task(self._keep_trying(self._path, incarnation))

    async def _keep_trying(self, path: str, incarnation: int) -> None:
        pause = RETRY
        while True:
            await asyncio.sleep(pause)
            if self._wire is not None or await self._reach(path, incarnation):
                return
            pause = min(2 * pause, RETRY_MOST)

    def lost(self) -> None:
        """The incarnation that was announced last is no more: it is not looked for again."""
        self._path = ""
        if self._trying:
            self._trying.cancel()
            self._trying = None

    def attach(self, wire: _Wire) -> None:
        if wire.incarnation != self._incarnation:  # another was announced while this one was on its way
            wire.drop()
            return
        if self._wire is not None:
            self._bereave()
        self._wire, self._serving = wire, False

    async def ready(self) -> ModelSpec:
        """Wait until the engine is ready. Raises EngineFailed once it has been given up."""
        await self._ready.wait()
        if self._state == "failed" or self._spec is None:
            raise EngineFailed(self._detail)
        return self._spec

    def give_up(self, detail: str) -> None:
        """The engine will not come back: every live sequence fails, and new ones are refused. The first reason counts."""
        if self._state == "failed":
            return
        self._state, self._detail = "failed", detail
        self.lost()
        self._end_all("lost", detail)
        for question in self._questions.values():
            self._refuse(question, detail)
        self._ready.set()

    def strike(self, seqs: Sequence[int]) -> None:
        """The engine has died while it computed these. Those over which too many have died end.

        Not before its wire is at its end: what it said of them before it died comes before the strike.
        """
        self._struck += seqs
        if self._wire is None:
            self._apply_strikes()

    def _apply_strikes(self) -> None:
        struck, self._struck = self._struck, []
        self._strike_questions(struck)
        if not (condemned := self._journal.strike(struck)):
            return
        for request in {record.request.id for record in condemned}:
            log.error("request %s: %d engines died over it; it is not tried again", request, CONDEMNED)
        for record in condemned:
            self._deliver(record.ended("condemned"))
        self._on_condemned()
        self._tell_asked()

    def close(self) -> None:
        """Let go of the engine; it cancels what still runs."""
        self.give_up("the client was closed")
        self.lost()
        if self._wire:
            self._wire.drop()

    def drain(self) -> None:
        """Take no new work; live sequences go on."""
        if self._state != "failed":
            self._state, self._detail = "draining", "the server is shutting down"

    def receive(self, wire: _Wire, message: FromEngine) -> None:
        """A message of the wire. What an old incarnation still has to say is dropped."""
        if wire is not self._wire:
            return
        match message:
            case Deltas():
                self._receive_deltas(wire, message)
            case Ready():
                self._receive_ready(message)
            case Reply():
                if (question := self._questions.get(message.id)) and not question.answer.done():
                    question.answer.set_result(message)
            case Died():
                self._receive_died(message)
            case _:
                assert_never(message)
        self._tell_asked()

    def _tell_asked(self) -> None:
        self._on_asked(len(self._journal) + len(self._questions))

    def _receive_deltas(self, wire: _Wire, message: Deltas) -> None:
        try:
            for delta in message.items:
                if news := self._journal.apply(delta):
                    self._deliver(news)
        except Gap as gap:  # our bug; the records are intact, so a fresh connection puts it right
            log.error("dropped the connection to engine %d: %s", wire.incarnation, gap)
            wire.drop()

    def _receive_ready(self, message: Ready) -> None:
        before = self._spec.numerics if self._spec else message.spec.numerics
        self._spec = message.spec
        if message.spec.numerics != before:
            self._end_all("failed", f"the model changed from numerics id {before} to {message.spec.numerics}")
        self._serving = True
        if self._state in ("loading", "restarting"):
            self._state, self._detail = "ready", ""
        # NOTE: one write. A second one could fail on an engine that dies at once, and asyncio then drops what came back.
        self._send(*self._journal.resubmissions(), *(question.control for question in self._questions.values()))
        if message.incarnation > 1:
            live = len(self._journal)
            log.warning("engine %d took over %d live sequence%s", message.incarnation, live, "s" * (live != 1))
        self._ready.set()

    def _receive_died(self, message: Died) -> None:
        self._wire, self._serving = None, False
        if self._state == "ready":
            self._state, self._detail = "restarting", "the engine died and is being restarted"
        self._bereave()
        self._try_again(message.incarnation)  # it lives if only the connection broke

    def _bereave(self) -> None:
        """The last wire will answer nothing; the next is asked again."""
        self._apply_strikes()

    def _strike_questions(self, struck: Sequence[int]) -> None:
        """Engines died while they looked at these: they are not asked for ever."""
        for question in filter(None, map(self._questions.get, struck)):
            question.deaths += 1
            if question.deaths >= PATIENCE and not question.answer.done():
                log.error(
                    "%d engines died over a question about %s; it is not asked again", PATIENCE, question.control.verb
                )
                self._refuse(question, "the engine died over it several times in a row")
                self._on_condemned()

    def _refuse(self, question: _Question, why: str) -> None:
        if not question.answer.done():
            question.answer.set_result(Reply(question.control.id, False, error=why))

    def _deliver(self, delta: TokenDelta) -> None:
        stream = self._streams.pop(delta.seq) if delta.end else self._streams[delta.seq]
        stream.feed(delta)

    def _end_all(self, reason: EndReason, detail: str) -> None:
        for record in self._journal.drain():
            self._deliver(record.ended(reason, detail))

    def _send(self, *messages: Any) -> None:
        if self._wire and messages:
            self._wire.send(b"".join(map(frame, messages)))


class _Wire(asyncio.Protocol):
    """One connection to one incarnation."""

    def __init__(self, owner: RemoteEngine, incarnation: int) -> None:
        self.incarnation = incarnation
        self._owner = owner
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its class
        self._owner.attach(self)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.push(data):
                self._owner.receive(self, decode_from_engine(body))
        except Garbage as error:
            log.error("engine %d sent what we cannot read: %s", self.incarnation, error)
            self.drop()

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.receive(self, Died(self.incarnation, str(error or "")))

    def send(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    def drop(self) -> None:
        if self._transport:
            self._transport.abort()
