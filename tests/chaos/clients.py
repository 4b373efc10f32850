"""Scenes of clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

from tests.chaos import wire
from tests.chaos.kit import SMALL, House, scene
from tests.chaos.mix import CHAT, TEXT, Wish, chat, mixed, text


class Steady:
    """Requests that go on, again and again, while something else is broken; each must be as it is in peace."""

    def __init__(self, house: House, count: int = 5, seed: int = 77) -> None:
        self.house = house
        self.wishes = mixed(count, seed, (30, 60))
        self.ended = False

    async def prepare(self) -> None:
        await self.house.fill()
        self.twins = await self.house.twins(self.wishes)
        await self.house.settle()

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._again(i)) for i in range(len(self.wishes))]
        try:
            yield
        finally:
            self.ended = True
            await asyncio.gather(*tasks)

    async def _again(self, index: int) -> None:
        while not self.ended:
            self.house.judge([await self.house.run(self.wishes[index], self.twins[index])])


@scene("a storm of clients that disconnect at random", *SMALL)
async def disconnects(house: House) -> None:
    count = 60 if house.quick else 600
    steady = Steady(house)
    await vanish(house, house.rng, 20)  # the first storm fills caches of the interpreter and the allocator
    await steady.prepare()
    async with steady.going_on():
        await vanish(house, house.rng, count)
    await house.seen_idle(5.0)


async def vanish(house: House, rng: random.Random, count: int, at_once: int = 24) -> None:
    """Requests whose clients go away: before the head, in the middle, streaming or not, by FIN or by RST."""
    gate = asyncio.Semaphore(at_once)

    async def one(wish: Wish, patience: float, reset: bool) -> None:
        async with gate:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(*house.address)
                writer.write(wire.message("POST", wish.route, wish.body))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        while await reader.read(4096):
                            pass
                house.figures.faults["client gone"] += 1
                if reset:
                    writer.transport.abort()
                else:
                    writer.close()

    wishes = mixed(count, rng.randrange(1 << 30), (200, 400))
    await asyncio.gather(*(one(wish, rng.expovariate(3.0), rng.random() < 0.5) for wish in wishes))


@scene("slow readers", *SMALL)
async def slow_readers(house: House) -> None:
    tokens = 600 if house.quick else 3000
    wishes = [
        Wish("slow", TEXT, text(house.rng, tokens, temperature=0.9, logprobs=5, ignore_eos=True)) for _ in range(4)
    ]
    twins = await house.twins(wishes)
    steady = Steady(house)
    await steady.prepare()
    async with steady.going_on():
        sips = [asyncio.create_task(sip(house, wish, house.rng.uniform(0.01, 0.05))) for wish in wishes]
        folds = await asyncio.gather(*sips)
    for twin, fold in zip(twins, folds, strict=True):
        house.figures.faults["slow reader"] += 1
        house.figures.accepted += 1
        if fold is None:
            house.figures.lost.append("a slow reader was let go without a proper end")
        elif fold != twin.said["0.text"]:
            house.figures.different.append("a slow reader got another text")


async def sip(house: House, wish: Wish, pause: float) -> str | None:
    """Read a stream through a small buffer, a little at a time; its text, or None if it has no end."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, tuple(house.address))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2048)
    said, held, whole = "", b"", False
    writer.write(wire.message("POST", wish.route, wish.body))
    try:
        for turn in range(1 << 30):
            piece = await reader.read(512 if turn < 300 else 1 << 16)  # slow for a while, then as fast as it goes
            if not piece:
                break
            if turn < 300:
                await asyncio.sleep(pause)
            held += piece
            if b"[DONE]" in held[-64:]:
                whole = True
                break
    except OSError:
        return None
    finally:
        writer.transport.abort()
    for event in events_of(held):
        for choice in event.get("choices", ()):
            said += choice.get("text", "")
    return said if whole else None


def events_of(raw: bytes) -> list[dict[str, Any]]:
    """Events in the raw bytes of a chunked answer."""
    body, rest = b"", raw.split(b"\r\n\r\n", 1)[1]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size or b"0", 16)
        body, rest = body + rest[:count], rest[count + 2 :]
    lines = body.split(b"\n")
    return [wire.json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


@scene("half-open and dribbling connections", *SMALL)
async def dribblers(house: House) -> None:
    count = 30 if house.quick else 300
    steady = Steady(house)
    await steady.prepare()
    whole = wire.message("POST", CHAT, chat(house.rng, 8))
    async with steady.going_on():
        held = []
        for number in range(count):
            with contextlib.suppress(OSError):
                held.append(await asyncio.open_connection(*house.address))
                house.figures.faults["half-open connection"] += 1
                cut = (0, 10, whole.index(b"\r\n\r\n") - 3, len(whole) - 5)[number % 4]
                held[-1][1].write(whole[:cut])
        for turn in range(10 if house.quick else 40):
            for number, (_, writer) in enumerate(held):
                if number % 4 == 1 and not writer.is_closing():
                    writer.write(whole[10 + turn : 11 + turn])
            await asyncio.sleep(0.2)
            began = asyncio.get_running_loop().time()
            status, _ = await house.ask("GET", "/ready")
            if status != 200 or asyncio.get_running_loop().time() - began > 5:
                house.figures.wrong.append(f"/ready said {status} beside half-open connections")
        for _, writer in held:
            writer.transport.abort()
