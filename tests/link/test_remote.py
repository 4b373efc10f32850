"""The waist end to end, in one process: engines that die at every point, and streams that must not notice."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from radixmill.core.errors import EngineFailed, GivenUp, NotReady
from radixmill.core.messages import Cancel, Control, Deltas, End, Ready, Reply, Submit, TokenDelta, Usage
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.core.spec import ModelSpec
from radixmill.link.remote import RemoteEngine
from radixmill.link.socket import EngineSocket, Joined, Left, Peer, Said

SPEC = ModelSpec(name="toy", architecture="toy", vocab_size=1000, context=100, numerics="n1")


def request(tokens: int) -> GenerateRequest:
    return GenerateRequest(id="r", prompt=(1, 2, 3), sampling=SamplingParams(max_tokens=tokens))


def token(seed: int, at: int) -> int:
    return (seed * 31 + at * at) % 997


class ToyEngine(threading.Thread):
    """Says a pure function of the record, a token a turn; dies after `lives` tokens."""

    def __init__(self, path: Path, incarnation: int, lives: int | None, spec: ModelSpec = SPEC) -> None:
        super().__init__(daemon=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self.socket, self.incarnation, self.lives, self.spec = EngineSocket(listener), incarnation, lives, spec
        self.live: dict[int, list[object]] = {}
        self.cancelled: list[int] = []
        self.left = threading.Event()
        self.stopping = False

    def run(self) -> None:
        said = 0
        while not self.stopping and (self.lives is None or said < self.lives):
            for incident in self.socket.poll(0.01 if not self.live else 0):
                match incident:
                    case Joined(peer):
                        self.socket.send(peer, Ready(self.spec, self.incarnation))
                    case Left():
                        self.live.clear()
                        self.left.set()
                    case Said(peer, Submit(req, seqs)):
                        for start in seqs:
                            self.live[start.seq] = [peer, req, start.seed, len(start.output)]
                    case Said(_, Cancel(seq)):
                        self.cancelled.append(seq)
                        self.live.pop(seq, None)
                    case Said(peer, Control(verb="deadly")):
                        peer.sock.shutdown(socket.SHUT_RDWR)
                        self.stopping = True
                    case Said(peer, Control(number, verb, _)):
                        self.socket.send(peer, Reply(number, verb == "stats", {"n": 1}, "no such verb"))
            said += self.turn()
        self.socket.close()
        for state in self.live.values():
            state[0].sock.close()  # type: ignore[attr-defined]

    def turn(self) -> int:
        said = 0
        for seq, (peer, req, seed, at) in list(self.live.items()):
            assert (
                isinstance(peer, Peer)
                and isinstance(req, GenerateRequest)
                and isinstance(seed, int)
                and isinstance(at, int)
            )
            last = at + 1 == req.sampling.max_tokens
            end = End("length", Usage(3, at + 1, 0)) if last else None
            self.socket.send(peer, Deltas((TokenDelta(seq, at, (token(seed, at),), end=end),)))
            self.live[seq][3] = at + 1
            if last:
                del self.live[seq]
            said += 1
        return said


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def run(folder: Path, story: Callable[[RemoteEngine, Callable[..., ToyEngine]], object], loop: Any = None) -> None:
    engines: list[ToyEngine] = []

    def engine(lives: int | None = None, spec: ModelSpec = SPEC) -> ToyEngine:
        engines.append(ToyEngine(folder / f"{len(engines)}", len(engines) + 1, lives, spec))
        engines[-1].start()
        return engines[-1]

    async def told() -> None:
        client = RemoteEngine()
        try:
            await asyncio.wait_for(story(client, engine), 60)  # type: ignore[arg-type]
        finally:
            client.close()

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(told())
    finally:
        for each in engines:
            each.stopping = True
            each.join(60)


@pytest.mark.parametrize("lives", [0, 1, 2, 3, 7, 19])
def test_streams_go_on_over_deaths(folder: Path, lives: int) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        await client.connect(str(folder / "0") if engine(lives) else "", 1)
        streams = [client.submit(request(12), [seed, seed + 100]) for seed in range(3)]
        folds = [asyncio.create_task(fold(stream)) for stream in streams]
        for number in range(1, 200):
            while client.health().incarnation == number and client._wire:
                if all(f.done() for f in folds):
                    break
                await asyncio.sleep(0.001)
            if all(f.done() for f in folds):
                break
            engine(max(lives, 1))
            await client.connect(str(folder / str(number)), number + 1)
        for seed, done in enumerate(folds):
            tokens, ends = await done
            assert tokens == [[token(s, at) for at in range(12)] for s in (seed, seed + 100)]
            assert ends == 2
        assert client.health().live == 0

    run(folder, story)


async def fold(stream: object) -> tuple[list[list[int]], int]:
    seqs = list(stream.seqs)  # type: ignore[attr-defined]
    tokens: list[list[int]] = [[] for _ in seqs]
    ends = 0
    async for delta in stream:  # type: ignore[attr-defined]
        tokens[seqs.index(delta.seq)] += delta.tokens
        ends += delta.end is not None
    return tokens, ends


def test_cancel_is_local_idempotent_and_reaches_the_engine(folder: Path) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        toy = engine()
        await client.connect(str(folder / "0"), 1)
        await client.ready()
        stream = client.submit(request(10**9), [1, 2])
        first = await anext(stream)
        stream.cancel(first.seq)
        stream.cancel(first.seq)
        stream.cancel()
        ends = [delta.end.reason async for delta in stream if delta.end]
        assert ends == ["cancelled", "cancelled"] and client.health().live == 0
        while len(toy.cancelled) < 2:
            await asyncio.sleep(0.001)
        assert sorted(toy.cancelled) == list(stream.seqs)

    run(folder, story)


def test_a_changed_model_fails_live_requests_by_name(folder: Path) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        engine(3)
        await client.connect(str(folder / "0"), 1)
        stream = client.submit(request(50), [1])
        while client.health().state != "restarting":
            await asyncio.sleep(0.001)
        engine(spec=ModelSpec(name="toy", architecture="toy", vocab_size=1000, context=100, numerics="n2"))
        await client.connect(str(folder / "1"), 2)
        ends = [delta.end async for delta in stream if delta.end]
        assert ends[0].reason == "failed" and "n1" in ends[0].detail and "n2" in ends[0].detail

    run(folder, story)


def test_giving_up_ends_everything(folder: Path) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        stream = client.submit(request(5), [1])
        client.give_up("no engine")
        assert [delta.end.reason async for delta in stream if delta.end] == ["lost"]
        late = client.submit(request(5), [1])
        assert [delta.end.reason async for delta in late if delta.end] == ["lost"]
        with pytest.raises(EngineFailed, match="no engine"):
            await client.ready()

    run(folder, story)


def test_what_is_cancelled_while_no_engine_lives_is_not_tried_again(folder: Path) -> None:
    """A client that leaves, or a stop string found in what a dead engine has said: the next engine never hears of it."""

    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        engine(lives=4)
        await client.connect(str(folder / "0"), 1)
        await client.ready()
        stream = client.submit(request(10**9), [1, 2])
        while client.health().state != "restarting":
            await asyncio.sleep(0.001)
        gone, stays = stream.seqs
        stream.cancel(gone)
        stream.cancel(gone)
        other = client.submit(request(3), [3])
        successor = engine()
        await client.connect(str(folder / "1"), 2)
        assert [each async for delta in other for each in delta.tokens] == [token(3, at) for at in range(3)]
        assert stays in successor.live and gone not in successor.live and not successor.cancelled
        stream.cancel(stays)
        ends = [(delta.seq, delta.end.reason) async for delta in stream if delta.end]
        assert sorted(ends) == [(gone, "cancelled"), (stays, "cancelled")]

    run(folder, story)


def test_control_is_answered_or_refused(folder: Path) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        engine()
        await client.connect(str(folder / "0"), 1)
        await client.ready()
        assert await client.control("stats") == {"n": 1}
        with pytest.raises(EngineFailed, match="no such verb"):
            await client.control("dance")

    run(folder, story)


def test_a_question_ends_that_engines_die_over_and_no_other(folder: Path) -> None:
    """Asked while the engine is dead, or when it dies: the next one answers. Over a deadly one three of them die."""

    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        engine()
        await client.connect(str(folder / "0"), 1)
        await client.ready()
        deadly = asyncio.create_task(client.control("deadly"))
        for death in range(3):
            assert not deadly.done()
            while client.health().state != "restarting":
                await asyncio.sleep(0.001)
            if not death:
                other = asyncio.create_task(client.control("stats"))
                await asyncio.sleep(0)
            client.strike([id for id, question in client._questions.items() if question.control.verb == "deadly"])
            engine()
            await client.connect(str(folder / str(death + 1)), death + 2)
            await client.ready()
        with pytest.raises(GivenUp, match="A question about deadly is given up"):
            await deadly
        assert await other == {"n": 1}
        assert not client._questions

    run(folder, story)


def test_a_question_that_nobody_will_answer(folder: Path) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        with pytest.raises(NotReady):
            await client.control("stats")
        engine()
        await client.connect(str(folder / "0"), 1)
        await client.ready()
        asked = asyncio.create_task(client.control("deadly"))
        while client.health().state != "restarting":
            await asyncio.sleep(0.001)
        client.give_up("no engine")
        with pytest.raises(EngineFailed, match="no engine"):
            await asked

    run(folder, story)


def test_a_front_that_goes_away_takes_its_sequences_with_it(folder: Path) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        toy = engine()
        await client.connect(str(folder / "0"), 1)
        await client.ready()
        stream = client.submit(request(10**9), [1])
        await anext(stream)
        assert client._wire
        client._wire.drop()
        while not toy.left.is_set():
            await asyncio.sleep(0.001)

    run(folder, story)


def test_a_strike_counts_behind_all_that_was_said_before_it(folder: Path) -> None:
    """The news of the death may overtake the last tokens: they don't clear it."""

    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        condemned = []
        client._on_condemned = lambda: condemned.append(1)
        engine(3)
        await client.connect(str(folder / "0"), 1)
        stream = client.submit(request(50), [1])
        client.strike([*stream.seqs, 999])
        while client.health().state != "restarting":
            await asyncio.sleep(0.001)
        (record,) = client._journal._live.values()
        assert len(record.output) == 3 and record.strikes == 1
        client.strike(stream.seqs)
        assert not condemned
        client.strike(stream.seqs)
        told = [delta async for delta in stream]
        assert [token for delta in told for token in delta.tokens] == [token_of(i) for i in range(3)]
        assert told[-1].end and told[-1].end.reason == "condemned" and told[-1].end.usage.completion == 3
        assert condemned == [1] and client.health().live == 0

    run(folder, story)


def token_of(at: int) -> int:
    return token(1, at)


def test_who_says_something_is_forgiven_and_who_does_not_runs_alone(folder: Path) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        stream = client.submit(request(5), [1])
        client.strike(stream.seqs)
        assert [start.alone for each in client._journal.resubmissions() for start in each.seqs] == [False]
        client.strike(stream.seqs)
        assert [start.alone for each in client._journal.resubmissions() for start in each.seqs] == [True]
        engine(1)
        await client.connect(str(folder / "0"), 1)
        await anext(stream)
        assert [start.alone for each in client._journal.resubmissions() for start in each.seqs] == [False]

    run(folder, story)


@pytest.mark.parametrize("gone, wait", [(False, 1.0), (True, None)])
def test_who_asks_an_engine_that_is_not_there_hears_when_to_try_again(gone: bool, wait: float | None) -> None:
    client = RemoteEngine()
    if gone:
        client.give_up("it died")
    with pytest.raises(NotReady) as error:
        asyncio.run(client.control("stats"))
    assert error.value.retry_after == wait and ("try again" in str(error.value)) != gone


def test_an_engine_whose_queue_of_connections_is_full_is_reached_later(folder: Path) -> None:
    """As while it loads, if others of its user have connected without end."""

    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "full"))
        listener.listen(0)
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for each in crowd:
            each.setblocking(False)
            each.connect_ex(str(folder / "full"))
        await client.connect(str(folder / "full"), 1)
        assert client._wire is None
        stream = client.submit(request(3), [5])
        toy = ToyEngine(folder / "own", 1, None)
        toy.socket.close()
        toy.socket = EngineSocket(listener)
        toy.start()
        assert (await asyncio.wait_for(fold(stream), 10))[1] == 1
        toy.stopping = True
        for each in crowd:
            each.close()

    run(folder, story, uvloop.new_event_loop)  # as in a front; asyncio's own takes a full queue for a slow one


@pytest.mark.parametrize("word", ["lost", "give_up", "close"])
def test_who_is_told_that_an_engine_is_lost_does_not_look_for_it(folder: Path, word: str) -> None:
    async def story(client: RemoteEngine, engine: Callable[..., ToyEngine]) -> None:
        await client.connect(str(folder / "nowhere"), 1)
        assert client._trying
        trying = client._trying
        getattr(client, word)(*(["gone"] if word == "give_up" else []))
        await asyncio.sleep(0)
        assert trying.cancelled() and client._trying is None

    run(folder, story)


def test_all_who_wait_are_let_in_at_one_turn(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(8)
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for each in crowd:
        each.connect(str(tmp_path / "s"))
    engine = EngineSocket(listener)
    assert sum(isinstance(incident, Joined) for incident in engine.poll(0)) == len(crowd)
    engine.close()
    for each in crowd:
        each.close()
