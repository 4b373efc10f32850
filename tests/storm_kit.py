"""A whole server in one process, without weights: the app, sessions, the link, the real scheduler in the real loop, and an
engine that can be killed. What it must leave behind is nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from radixmill.core.config import Config, ScheduleOptions, ServerOptions
from radixmill.core.messages import TokenDelta
from radixmill.core.plan import StepPlan
from radixmill.engine.loop import Engine
from radixmill.engine.schedule import Scheduler
from radixmill.front.api.app import create_app
from radixmill.front.session import Front, Session
from radixmill.front.session.door import Bounds
from radixmill.link.remote import RemoteEngine
from radixmill.link.socket import EngineSocket
from radixmill.observe.pulse import EnginePulse
from tests.engine.fakes import HashExecutor, HashTicket, spec
from tests.fakes import ByteText

MODEL = msgspec.structs.replace(spec(pages=96, page_size=4, slots=8, context=200), vocab_size=260)


class Counting(HashExecutor):
    """Knows which slots each step computed. `gate`: steps wait while it is closed; `pause`: seconds that each takes."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.gate = threading.Event()
        self.gate.set()
        self.pause = 0.0
        self.steps: list[frozenset[int]] = []  # slots of each

    def launch(self, plan: StepPlan) -> HashTicket:
        self.steps.append(frozenset(plan.slots.tolist()))
        self.gate.wait(20)
        time.sleep(self.pause)
        ticket = super().launch(plan)
        self.plans.clear()
        return ticket


class Machine(threading.Thread):
    """One incarnation of an engine."""

    def __init__(self, folder: Path, incarnation: int) -> None:
        super().__init__(daemon=True)
        self.path, self.incarnation = folder / f"{incarnation}.sock", incarnation
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        self._life, watch = socket.socketpair()
        self._watch = watch
        self.pulse = EnginePulse(folder / f"{incarnation}.pulse")
        self.scheduler = Scheduler(MODEL, ScheduleOptions(max_running_requests=8))
        self.executor = Counting()
        self.link = EngineSocket(listener, watch)
        self.engine = Engine(self.scheduler, self.executor, self.link, incarnation=incarnation, pulse=self.pulse)
        self.start()

    def run(self) -> None:
        with contextlib.suppress(EOFError):  # killed
            self.engine.run()
        self.link.close()
        self._watch.close()

    def die(self) -> None:
        """Between two steps: nothing that it knew is left, and what it had still to send is lost."""
        if not self.is_alive():
            return
        self._life.close()
        self.executor.gate.set()
        self.join(20)
        assert not self.is_alive()
        self.pulse.close()
        self.path.unlink()
        self.pulse._page.path.unlink()


class Heard(RemoteEngine):
    """Counts how often each sequence has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: Counter[int] = Counter()
        self.submitted = 0

    def submit(self, *args: Any) -> Any:
        stream = super().submit(*args)
        self.submitted += len(stream.seqs)
        return stream

    def _deliver(self, delta: TokenDelta) -> None:
        self.ends[delta.seq] += delta.end is not None
        super()._deliver(delta)


class Forgetful(ByteText):
    """Keeps no list of what it was asked."""

    def encode_chat(self, chat: Any) -> list[int]:
        tokens = super().encode_chat(chat)
        self.chats.clear()
        return tokens


class World:
    """The server."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.deaths = folder, 0
        self.client = Heard()
        config = replace(Config(), server=ServerOptions(store_entries=8))
        self.session = Session(Forgetful(), self.client, ("echo",), limits=Bounds(requests=10_000))
        self.front = Front(config, self.client, self.session)
        self.app = create_app(self.front)
        self.machine = Machine(folder, 1)

    async def open(self) -> None:
        await self.client.connect(str(self.machine.path), 1)
        await self.client.ready()

    async def kill(self, pause: float = 0.0) -> None:
        """The engine dies; after `pause` seconds there is another."""
        self.deaths += 1
        await asyncio.to_thread(self.machine.die)
        await asyncio.sleep(pause)
        self.machine = Machine(self.folder, self.deaths + 1)
        await self.client.connect(str(self.machine.path), self.machine.incarnation)

    def close(self) -> None:
        self.client.close()
        self.machine.die()

    async def settled(self) -> None:
        """Until the engine knows of nothing any more; then everything must be where it was."""
        async with asyncio.timeout(60):
            while not self.machine.scheduler.idle or self.machine.scheduler._live:
                await asyncio.sleep(0.005)
            stats = await self.client.control("stats")
        assert (stats["live"], stats["leases"], stats["running"], stats["waiting"]) == (0, 0, 0, 0)
        assert stats["conserved"] is True
        assert stats["pages_free"] + stats["pages_evictable"] == stats["pages_total"]
        client, session = self.client, self.session
        held = (client._journal._live, client._streams, client._questions, session._live)
        assert not any(held), held
        for drain in (session.door.requests, session.door.tokens):
            assert not drain.held and not drain._shares
        assert set(client.ends.values()) <= {0, 1}
        assert sum(client.ends.values()) == client.submitted, "every sequence ends once"
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task(), client._trying}
        assert not left, left


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    made = World(folder)
    try:
        await made.open()
        yield made
    finally:
        made.close()


# --- clients, in memory


class Visit:
    """One request, by ASGI. `leave` is what a closed socket would be."""

    def __init__(self, app: Any, path: str, body: dict[str, Any], slow: float = 0.0) -> None:
        self.app, self.path, self.slow = app, path, slow
        self.content = json.dumps(body).encode()
        self.status, self.heard = 0, bytearray()
        self._gone = asyncio.Event()
        self._asked = self.complete = False

    def leave(self) -> None:
        self._gone.set()

    async def run(self) -> Visit:
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(self.content)).encode())]
        scope = {"type": "http", "method": "POST", "path": self.path, "headers": head, "query_string": b"", "state": {}}
        await self.app(scope, self._receive, self._send)
        assert self.complete or self._gone.is_set(), "an answer that was not finished"
        return self

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.content, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)
        if self._gone.is_set():
            return
        self.status = message.get("status", self.status)
        self.heard += message.get("body", b"")
        self.complete = message["type"] == "http.response.body" and not message.get("more_body")


def body(dice: Random, path: str) -> dict[str, Any]:
    """A random request of a route that generates."""
    most = dice.choice([0, 1, 3, 10, 40])
    text = "".join(dice.choice("abcdefgh") for _ in range(dice.choice([1, 5, 20, 100])))
    text = dice.choice(["", "the same beginning of many a prompt "]) + text
    messages, stream, n = [{"role": "user", "content": text}], dice.random() < 0.6, dice.choice([1, 1, 1, 2, 3])
    match path:
        case "/v1/chat/completions":
            return {
                "messages": messages,
                "max_tokens": max(most, 1),
                "stream": stream,
                "n": n,
                "store": dice.random() < 0.2,
            }
        case "/v1/completions":
            prompt = dice.choice([text, [text, text[:3]], [text] * 3])
            return {"prompt": prompt, "max_tokens": most, "stream": stream, "n": n, "echo": dice.random() < 0.2}
        case "/generate":
            some = dice.choice([text, [text, "b"]])
            return {"text": some, "stream": stream, "sampling_params": {"max_new_tokens": most, "n": n}}
        case "/v1/responses":
            background = dice.random() < 0.3
            return {"input": text, "max_output_tokens": max(most, 16), "stream": stream, "background": background}
    return {"model": "echo", "max_tokens": max(most, 1), "messages": messages, "stream": stream}


PATHS = ("/v1/chat/completions", "/v1/completions", "/generate", "/v1/responses", "/v1/messages")


async def guest(home: World, dice: Random, number: int) -> int:
    """One client: it may leave at any moment, abort, or read slowly. The status of its answer; 0 if it left before."""
    path = dice.choice(PATHS)
    asked = {**body(dice, path), **({"rid": f"job-{number}"} if dice.random() < 0.3 else {})}
    visit = Visit(home.app, path, asked, slow=dice.choice([0, 0, 0, 0.001]))
    loop = asyncio.get_running_loop()
    if dice.random() < 0.5:
        loop.call_later(dice.choice([0, 0, 0.001, 0.01, 0.05, 0.2]) * dice.random(), visit.leave)
    aborts = {"rid": f"job-{number}"} if "rid" in asked and dice.random() < 0.5 else None
    running = asyncio.create_task(visit.run())
    if aborts:
        for _ in range(2):
            await asyncio.sleep(dice.random() * 0.02)
            await Visit(home.app, "/abort_request", aborts).run()
    await running
    return visit.status


async def storm(home: World, dice: Random, guests: int, deaths: int, width: int = 48) -> Counter[int]:
    """Guests, so many at a time, while engines die. How often each status was heard."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(guests))
    done = asyncio.Event()

    async def arrive() -> None:
        for number in numbers:
            statuses[await guest(home, dice, number)] += 1

    async def strike() -> None:
        for _ in range(deaths):
            await asyncio.sleep(dice.random() * 0.3)
            if done.is_set():
                return
            await home.kill(dice.choice([0, 0, 0.05]))

    striking = asyncio.create_task(strike())
    async with asyncio.timeout(240):
        await asyncio.gather(*(arrive() for _ in range(width)))
        done.set()
        await striking
        await background_over(home)
    await home.settled()
    return statuses


async def background_over(home: World) -> None:
    """Until the responses that nobody waits for are made."""
    while home.session.live:
        await asyncio.sleep(0.005)
    for _ in range(5):
        await asyncio.sleep(0)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def until_true(what: Callable[[], bool]) -> Any:
    async def wait() -> None:
        async with asyncio.timeout(30):
            while not what():
                await asyncio.sleep(0.001)

    return wait()
