"""One end per sequence, whatever happens and in whatever order: the client's half of the link under random schedules."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import ServeError
from radixmill.core.messages import Cancel, Control, Deltas, Died, End, Ready, Reply, Submit, TokenDelta, Usage
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.core.spec import ModelSpec
from radixmill.link.codec import Frames, decode_to_engine
from radixmill.link.remote import RemoteEngine, RemoteStream

SPEC = ModelSpec(name="toy", architecture="toy", vocab_size=1000, context=100, numerics="n1")


class Wire:
    """A connection to an engine that says what the dice want: tokens, ends, again, late, and of sequences it was told to
    forget."""

    def __init__(self, owner: RemoteEngine, incarnation: int) -> None:
        self.owner, self.incarnation = owner, incarnation
        self.frames = Frames()
        self.at: dict[int, int] = {}  # output tokens said, of those that run
        self.most: dict[int, int] = {}
        self.said: list[TokenDelta] = []
        self.questions: list[Control] = []
        self.dead = False
        owner.attach(self)  # type: ignore[arg-type]

    def send(self, data: bytes) -> None:
        for body in self.frames.push(data):
            match decode_to_engine(body):
                case Submit(request, starts):
                    for start in starts:
                        self.at[start.seq] = len(start.output)
                        self.most[start.seq] = request.sampling.max_tokens
                case Cancel(seq):
                    self.at.pop(seq, None)
                case Control() as question:
                    self.questions.append(question)

    def turn(self, dice: Random) -> None:
        """Some sequences say a token; some end; what was said before may be said again."""
        deltas = []
        for seq, at in list(self.at.items()):
            if dice.random() < 0.5:
                continue
            last = at + 1 >= self.most[seq]
            reason: Any = "length" if last else dice.choice(["", "", "", "", "", "stop", "failed", "cancelled"])
            end = End(reason, Usage(1, at + 1, 0)) if reason else None
            deltas.append(TokenDelta(seq, at, ((seq * 31 + at) % 997,), end=end))
            self.at[seq] = at + 1
            if end:
                del self.at[seq]
        self.said += deltas
        if self.said and dice.random() < 0.3:
            deltas += dice.choices(self.said, k=3)
        self._say(Deltas(tuple(deltas)))
        if self.questions and dice.random() < 0.3:
            self._say(Reply(self.questions.pop().id, True))

    def _say(self, message: Any) -> None:
        self.owner.receive(self, message)  # type: ignore[arg-type]

    def drop(self) -> None:
        self.dead = True


class Play:
    """A front at random."""

    def __init__(self, dice: Random) -> None:
        self.dice, self.client = dice, RemoteEngine()
        self.wires: list[Wire] = []
        self.streams: list[RemoteStream] = []
        self.asked: list[asyncio.Task[Any]] = []

    async def run(self, turns: int) -> None:
        self.begin()
        for _ in range(turns):
            self.move()
            if self.dice.random() < 0.2:
                await asyncio.sleep(0)
        self.finish()
        await self.check()

    def begin(self) -> None:
        wire = Wire(self.client, len(self.wires) + 1)
        self.wires.append(wire)
        if self.dice.random() < 0.9:
            self.ready()

    def ready(self) -> None:
        wire = self.wires[-1]
        if not wire.dead:
            wire._say(Ready(SPEC, wire.incarnation))

    def move(self) -> None:
        dice, client = self.dice, self.client
        match dice.choices(
            ("submit", "turn", "cancel", "again", "die", "begin", "ready", "ask", "late", "drain", "fail"),
            (20, 40, 10, 5, 4, 4, 4, 3, 3, 0.3, 0.2),
        )[0]:
            case "submit":
                request = GenerateRequest(
                    id="r", prompt=(1,), sampling=SamplingParams(max_tokens=dice.choice([1, 3, 9]))
                )
                self.streams.append(client.submit(request, list(range(dice.choice([1, 1, 2, 4])))))
            case "turn":
                if client._serving:
                    self.wires[-1].turn(dice)
            case "cancel" if self.streams:
                stream = dice.choice(self.streams)
                stream.cancel(dice.choice([None, *stream.seqs]))
            case "again":
                client.cancel(dice.randrange(1, 200))  # may have ended, may never have been
            case "die":
                self.die()
            case "begin" if self.wires[-1].dead:
                self.begin()
            case "ready" if not client._serving:
                self.ready()
            case "ask":
                self.ask()
            case "late":
                if client._serving:
                    dice.choice(self.wires).turn(dice)
            case "drain":
                client.drain()
            case "fail":
                client.give_up("no more engines")

    def die(self) -> None:
        wire = self.wires[-1]
        if not wire.dead:
            wire.dead = True
            wire._say(Died(wire.incarnation))

    def ask(self) -> None:
        task = asyncio.get_running_loop().create_task(self.client.control("stats"))
        self.asked.append(task)
        if self.dice.random() < 0.3:
            asyncio.get_running_loop().call_soon(task.cancel)

    def finish(self) -> None:
        """Engines come, and stay, until all is over; or the front closes with what is left."""
        if self.dice.random() < 0.3:
            return
        for _ in range(200):
            if self.wires[-1].dead:
                self.begin()
            if not self.client._serving:
                self.ready()
            self.wires[-1].turn(self.dice)

    async def check(self) -> None:
        self.client.close()
        ends: Counter[int] = Counter()
        for stream in self.streams:
            at = dict.fromkeys(stream.seqs, 0)
            async with asyncio.timeout(20):
                async for delta in stream:
                    assert not ends[delta.seq], "something after the end"
                    assert delta.at == at[delta.seq], "a gap or a double"
                    assert delta.tokens == tuple(
                        (delta.seq * 31 + delta.at + i) % 997 for i in range(len(delta.tokens))
                    )
                    at[delta.seq] += len(delta.tokens)
                    ends[delta.seq] += delta.end is not None
        assert all(ends[seq] == 1 for stream in self.streams for seq in stream.seqs)
        for outcome in await asyncio.gather(*self.asked, return_exceptions=True):
            assert isinstance(outcome, dict | ServeError | asyncio.CancelledError), outcome
        client = self.client
        assert not len(client._journal) and not client._streams and not client._questions


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 150))
def test_one_end_per_sequence(seed: int, turns: int) -> None:
    asyncio.run(Play(Random(seed)).run(turns))


def test_long_stories() -> None:
    for seed in range(30):
        asyncio.run(Play(Random(seed)).run(800))
