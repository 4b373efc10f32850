"""Scenes of hostile words: on the internal socket, and in requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from radixmill.core.messages import Control, Deltas
from radixmill.link.codec import frame
from tests.chaos import footprint, wire
from tests.chaos.clients import Steady
from tests.chaos.kit import SMALL, House, scene
from tests.chaos.mix import mixed

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -1e400, 2**63, "", "x", "\x00", "\ud800", [], {}, [[]], {"": None}, "9" * 400, [None] * 50,
    [[[[[[[[[]]]]]]]]], float("nan"), "<|im_start|>", {"$ref": "#"}, "a" * 20_000,
)  # fmt: skip
NAMES = ("x", "resp_x", "chatcmpl-x", "\x00", "..", "a/b", "\U0001f4a5", "a" * 3000, "", "{}", "%")
# What an order must say that it comes to nothing: the name of a model that nobody has, of a request that nobody has sent.
ORDERS: dict[str, dict[str, Any]] = {
    "/admin/reload": {"model": "nobody-has-this"},
    "/update_weights_from_disk": {"model_path": "nobody-has-this"},
    "/abort_request": {"rid": "nobody-has-sent-this", "abort_all": False},
}


@scene("garbage on the internal socket", *SMALL)
async def garbage(house: House) -> None:
    steady = Steady(house)
    await steady.prepare()
    before = house.engine()
    async with steady.going_on():
        for number, data in enumerate(junk(house.rng, 20 if house.quick else 200)):
            sockets = sorted(footprint.folder_of(house.server).glob("engine-*.sock"))
            assert sockets, "the engine has no socket"
            await say(sockets[-1], data, linger=number % 3 == 0)
            house.figures.faults["garbage on the internal socket"] += 1
            await asyncio.sleep(0.01)
    if house.engine() != before:
        house.figures.wrong.append("garbage killed the engine")


async def say(path: Path, data: bytes, *, linger: bool) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        if linger:
            async with asyncio.timeout(0.2):
                await reader.read(1 << 16)
        writer.transport.abort()


def junk(rng: random.Random, count: int) -> Iterator[bytes]:
    """Frames that are too long, cut, of nobody's type, or no frames at all."""
    kinds = (
        lambda: rng.randbytes(rng.randint(1, 4000)),
        lambda: struct.pack("<I", 0xFFFFFFFF) + b"x" * 100,
        lambda: struct.pack(">I", 0x7FFFFFFF),
        lambda: frame(Deltas(())),
        lambda: frame(Control(1, "no such verb", {})),
        lambda: frame(Control(2, "stats", {"no": "such argument"})),
        lambda: frame(Control(3, "grammar", {})),
        lambda: frame(Control(4, "stats", {}))[:-1],
        lambda: flipped(frame(Control(5, "stats", {})), rng),
        lambda: b"",
    )
    for number in range(count):
        yield kinds[number % len(kinds)]()


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


@scene("malformed requests", *SMALL)
async def malformed(house: House) -> None:
    steady = Steady(house)
    rng, address = house.rng, house.address
    routes = await routes_of(house)
    await storm(house, [hostile(rng, routes) for _ in range(300)], address)
    house.figures.faults.clear()
    await steady.prepare()
    before = [house.engine(), *house.server.pids("front")]
    async with steady.going_on():
        await storm(house, [hostile(rng, routes) for _ in range(500 if house.quick else 10_000)], address)
    if (after := [house.engine(), *house.server.pids("front")]) != before:
        house.figures.wrong.append(f"malformed requests killed something: {before} → {after}")


async def storm(house: House, requests: list[bytes], address: wire.Address, at_once: int = 16) -> None:
    gate = asyncio.Semaphore(at_once)

    async def one(data: bytes) -> None:
        async with gate:
            status = await outcome(address, data)
            house.figures.faults["malformed request"] += 1
            if status >= 500 and status != 503:
                house.figures.wrong.append(f"status {status} to {data[:600]!r}")

    await asyncio.gather(*map(one, requests))


async def outcome(address: wire.Address, data: bytes, patience: float = 20.0) -> int:
    """The status of the answer; 0: there was none, which a client that stops in the middle can't complain of."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, TimeoutError):
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(*address, limit=wire.LINE)
            try:
                writer.write(data)
                writer.write_eof()
                answer = await wire.read_head(reader, writer)
                await asyncio.wait_for(answer.body(), 5)
                return answer.status
            finally:
                writer.transport.abort()
    return 0


@dataclass(frozen=True)
class Route:
    """As the server describes it."""

    method: str
    path: str  # with names in braces
    fields: tuple[str, ...]  # of its body


async def routes_of(house: House) -> list[Route]:
    """Every route and method, by the server's own description."""
    _, description = await house.ask("GET", "/openapi.json")
    found = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            found.append(Route(method.upper(), path, tuple(fields_of(description, operation))))
    return found


def fields_of(description: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    """Names that the body of an operation may have; none: it has no body, or not an object."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return list(schema.get("properties", ()))


def on_route(rng: random.Random, routes: Sequence[Route], ids: Sequence[str] = ()) -> bytes:
    """Odd things to one of all routes. `ids`: of things that the server keeps."""
    route = rng.choice(routes)
    path = re.sub(r"\{\w+\}", lambda _: quote(rng.choice([*ids, *ids, *NAMES]), safe=""), route.path)
    if rng.random() < 0.2:
        path += f"?{quote(rng.choice(NAMES))}={quote(rng.choice(NAMES))}&limit={quote(str(rng.choice(ODD))[:20], errors='replace')}"
    if route.method == "GET" and rng.random() < 0.8:
        return wire.message("GET", path)
    body = rng.choice(ODD)
    if route.fields and rng.random() < 0.7:
        body = {name: rng.choice(ODD) for name in rng.sample(route.fields, rng.randint(1, min(4, len(route.fields))))}
    return wire.message(route.method, path, tame(route.path, body))


def tame(path: str, body: Any) -> Any:
    """Orders that would be obeyed are given such that nothing comes of them: reloads without end, others' requests aborted."""
    given = {} if body is None else body
    if path in ORDERS and isinstance(given, dict):
        return {**given, **ORDERS[path]}
    return body


def hostile(rng: random.Random, routes: Sequence[Route], ids: Sequence[str] = ()) -> bytes:
    """A request with something wrong in its body, its head or its bytes."""
    roll = rng.random()
    if roll < 0.5:
        (wish,) = mixed(15, rng.randrange(1 << 30), (1, 4))[rng.randrange(15) :][:1]
        return wire.message("POST", wish.route, mutated({**wish.body, "stream": rng.random() < 0.3}, rng))
    if roll < 0.75:
        return on_route(rng, routes, ids)
    if roll < 0.9:
        wish = rng.choice(mixed(15, rng.randrange(1 << 30), (1, 4)))
        data = wire.message("POST", wish.route, {**wish.body, "stream": False})
        for _ in range(rng.randint(1, 6)):
            data = flipped(data, rng)
        return data
    return rng.choice(RAW)(rng)


def mutated(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """JSON of which one part, somewhere, is another."""
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.7):
        name = rng.choice(list(value))
        if rng.random() < 0.1:
            return {each: part for each, part in value.items() if each != name}
        return {**value, name: mutated(value[name], rng, depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng, depth + 1), *value[at + 1 :]]
    return rng.choice(ODD)


RAW = (
    lambda rng: rng.randbytes(rng.randint(1, 2000)),
    lambda rng: b"GET / HTTP/9.9\r\n\r\n",
    lambda rng: b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    lambda rng: b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    lambda rng: b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    lambda rng: (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
    ),
    lambda rng: b"GET /" + b"a" * rng.randint(1, 200_000) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda rng: b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * rng.randint(1, 5000) + b"\r\n",
    lambda rng: b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * rng.randint(1, 300_000) + b"\r\n\r\n",
    lambda rng: b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header\x00: y\r\n\r\n",
    lambda rng: b"GET /v1/models%00%ff/../.. HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda rng: b"PATCH /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda rng: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
    lambda rng: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    lambda rng: b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    lambda rng: wire.message("POST", "/v1/completions")[:-4] + b"\r\n\r\n" + b"[" * 50_000,
    lambda rng: raw_json(b"[" * 20_000 + b"]" * 20_000),
    lambda rng: raw_json(b'{"prompt": "\xff\xfe", "model": "default"}'),
    lambda rng: raw_json(b'{"model": "default", "prompt": "x", "max_tokens": 1, "max_tokens": 1e999}'),
    lambda rng: raw_json(json.dumps({"model": "default", "prompt": "x"}).encode("utf-16")),
)


def raw_json(body: bytes, path: str = "/v1/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
