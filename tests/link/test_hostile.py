"""Peers that send garbage, stop in the middle, never read or come in crowds: the engine drops them and serves the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.config import ScheduleOptions
from radixmill.core.messages import Cancel, Control, Deltas, Ready, Reply, SeqStart, Submit, TokenDelta
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.engine.loop import Engine
from radixmill.engine.schedule import Scheduler
from radixmill.link import socket as link_socket
from radixmill.link.codec import MAX_FRAME, Frames, Garbage, decode_from_engine, decode_to_engine, frame
from radixmill.link.remote import RemoteEngine
from radixmill.link.socket import EngineSocket, Joined, Left
from tests.engine.fakes import HashExecutor, alone, spec
from tests.link.test_remote import fold

PROMPT = tuple(range(12))


class Served:
    """An engine in a thread, and the door to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(512)
        model = spec(pages=4000, page_size=4, slots=32, context=400)
        self.executor = HashExecutor(model)
        self.scheduler = Scheduler(model, ScheduleOptions())
        self.link = EngineSocket(listener)
        self.engine = Engine(self.scheduler, self.executor, self.link)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.engine.run()
        except BaseException as error:
            self.error = error
        finally:
            self.link.close()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(self.path))
        return sock

    def attack(self, data: bytes) -> None:
        """Send it; whatever it was, this peer is dropped or ignored."""
        with self.connect() as sock, contextlib.suppress(OSError):
            sock.sendall(data)

    def dropped(self, data: bytes) -> bool:
        """Whether the engine hangs up on whoever sends this."""
        with self.connect() as sock:
            with contextlib.suppress(OSError):
                sock.sendall(data)
            with contextlib.suppress(OSError):
                while sock.recv(1 << 16):
                    pass
                return True
        return False

    def stop(self) -> None:
        self.engine.stop()
        with contextlib.suppress(OSError):
            self.connect().close()
        self.thread.join(10)


@pytest.fixture
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        server = Served(Path(folder))
        yield server
        server.stop()
        assert server.error is None


def during(served: Served, attack: Callable[[], None], tokens: int = 60) -> None:
    """Streams of a front that behaves, while the attack runs: all they say is what they say alone."""

    async def story() -> None:
        client = RemoteEngine(first=1 << 50)
        await client.connect(str(served.path), 1)
        await client.ready()
        request = GenerateRequest(id="r", prompt=PROMPT, sampling=SamplingParams(max_tokens=tokens))
        folds = [asyncio.create_task(fold(client.submit(request, [7 + i]))) for i in range(4)]
        await asyncio.to_thread(attack)
        for i, (said, ends) in enumerate(await asyncio.wait_for(asyncio.gather(*folds), 60)):
            assert said == [alone(PROMPT, 7 + i, tokens)] and ends == 1
        late, _ = await asyncio.wait_for(fold(client.submit(request, [99])), 60)
        assert late == [alone(PROMPT, 99, tokens)]
        client.close()

    asyncio.run(story())
    assert served.thread.is_alive() and served.error is None


def submit(prompt: tuple[int, ...] = PROMPT, seq: int = 5, seed: int = 1, tokens: int = 3) -> bytes:
    request = GenerateRequest(id="x", prompt=prompt, sampling=SamplingParams(max_tokens=tokens))
    return frame(Submit(request, (SeqStart(seq, seed),)))


def raw(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


BAD = {
    "noise": Random(1).randbytes(4000),
    "a giant length": b"\xff\xff\xff\xff",
    "a length beyond the limit": (MAX_FRAME + 1).to_bytes(4, "little"),
    "no message": raw(b"\x93\x01\x02\x03"),
    "an empty frame": raw(b""),
    "a message of the other direction": frame(Deltas((TokenDelta(1, 0, (5,)),))),
    "another of the other direction": frame(Ready(spec(), 3)),
    "a third": frame(Reply(1, True)),
    "a type that is none": raw(b"\x81\xa4type\xa4Boom"),
    "nested too deep": raw(b"\x83\xa4type\xa7Control\xa2id\x01\xa4args" + b"\x81\xa1a" * 50_000),
    "an array of four billion": raw(b"\x82\xa4type\xa6Submit\xa4seqs\xdd\xff\xff\xff\xff"),
    "a token that does not exist": submit(prompt=(1, 50)),
    "a token below zero": submit(prompt=(-1,)),
    "a token beyond 64 bits": submit(prompt=((1 << 64) - 1,)),
    "a sequence beyond 63 bits": submit(seq=(1 << 64) - 1),
    "a seed below zero": submit(seed=-1),
    "a length below zero": submit(tokens=-1),
}


@pytest.mark.parametrize("what", BAD)
def test_garbage_costs_its_sender_the_connection(served: Served, what: str) -> None:
    during(served, lambda: pytest.fail("not dropped") if not served.dropped(BAD[what]) else None)


ODD = {
    "a verb that is none": Control(1, "dance", {"a": 1}),
    "arguments that are none": Control(2, "flush_cache", {"much": 1}),
    "a grammar without a text": Control(3, "grammar", {}),
    "a grammar of numbers": Control(4, "grammar", {"kind": 5, "text": [1]}),
    "somebody else's sequence": Cancel((1 << 50) + 1),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_messages_are_answered_or_ignored(served: Served, what: str) -> None:
    during(served, lambda: served.attack(frame(ODD[what])))


def test_half_a_frame_and_silence(served: Served) -> None:
    held = []

    def attack() -> None:
        for cut in range(1, 40):
            held.append(served.connect())
            held[-1].sendall(submit()[:cut])

    during(served, attack)
    for sock in held:
        sock.close()


def test_a_crowd_of_connections(served: Served) -> None:
    crowd: list[socket.socket] = []
    during(served, lambda: crowd.extend(served.connect() for _ in range(link_socket.MAX_PEERS * 2)))
    assert len(served.link._peers) <= link_socket.MAX_PEERS
    for sock in crowd:
        sock.close()


def test_who_does_not_read_is_dropped_at_a_bound(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_socket, "MAX_UNSENT", 1 << 16)
    with served.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def attack() -> None:
            with pytest.raises(BrokenPipeError):
                for i in range(100_000):
                    deaf.sendall(frame(Control(i, "stats")))

        during(served, attack)


def test_mutated_requests_never_end_the_engine(served: Served) -> None:
    """Bits flipped in frames that were good: some are good again."""
    dice = Random(5)

    def attack() -> None:
        for _ in range(400):
            body = bytearray(submit(tokens=dice.randint(1, 5))[4:])
            for _ in range(dice.randint(1, 3)):
                body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
            served.attack(raw(bytes(body)))

    during(served, attack, tokens=200)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=20))
def test_frames_give_whole_frames_or_garbage_and_nothing_else(parts: list[bytes]) -> None:
    frames = Frames()
    for part in parts:
        try:
            for body in frames.push(part):
                for decode in (decode_to_engine, decode_from_engine):
                    with contextlib.suppress(Garbage):
                        decode(body)
        except Garbage:
            return


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200) | st.sampled_from(list(BAD.values())), max_size=12))
def test_a_socket_tells_of_each_peer_once_that_it_joined_and_left(attacks: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/s")
        listener.listen(64)
        link = EngineSocket(listener)
        joined: list[Any] = []
        left: list[Any] = []

        def poll() -> None:
            for incident in link.poll(0):
                if isinstance(incident, Joined):
                    joined.append(incident.peer)
                elif isinstance(incident, Left):
                    left.append(incident.peer)

        for data in attacks:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(f"{folder}/s")
                poll()
                sock.sendall(data)
                poll()
            poll()
        for _ in range(len(attacks) + 2):
            poll()
        assert len(joined) == len(attacks) and len(left) == len(set(map(id, left))) == len(joined)
        link.close()


@pytest.mark.parametrize("garbage", [BAD["noise"], BAD["nested too deep"], frame(Cancel(3)), b"\xff\xff\xff\xff"])
def test_an_engine_that_sends_garbage_is_asked_again(garbage: bytes) -> None:
    """The first connection brings rubbish; on the next, all goes on."""
    with tempfile.TemporaryDirectory() as folder:
        server = Served(Path(folder))
        send, spoiled = server.link.send, []

        def spoil(peer: Any, message: Any) -> None:
            if isinstance(message, Deltas) and not spoiled and message.items[0].at > 5:
                spoiled.append(peer)
                peer.unsent += garbage
            send(peer, message)

        server.link.send = spoil  # type: ignore[method-assign]
        during(server, lambda: None)
        assert spoiled
        server.stop()
        assert server.error is None
