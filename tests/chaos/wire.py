"""A plain HTTP/1.1 client on sockets: fast enough for many streams beside a server on the same cores, and free to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

LINE = 1 << 24  # most bytes of a line: an event with a long answer in it


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 80)


@dataclass
class Answer:
    """The head of an answer, and the way to its body."""

    status: int
    headers: dict[str, str]  # names in lower case
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def lines(self) -> AsyncIterator[bytes]:
        """Lines of a chunked body. Raises asyncio.IncompleteReadError where the body breaks off."""
        held = b""
        async for piece in self.pieces():
            *whole, held = (held + piece).split(b"\n")
            for line in whole:
                yield line
        if held:
            yield held

    async def pieces(self) -> AsyncIterator[bytes]:
        """Parts of the body as they come. Raises asyncio.IncompleteReadError where it breaks off."""
        if "content-length" in self.headers:
            yield await self.reader.readexactly(int(self.headers["content-length"]))
            return
        if self.headers.get("transfer-encoding") != "chunked":
            yield await self.reader.read()
            return
        while size := int((await self._line()).split(b";")[0], 16):
            piece = await self.reader.readexactly(size + 2)
            yield piece[:-2]
        await self._line()

    async def events(self) -> AsyncIterator[dict[str, Any] | None]:
        """The JSON of server-sent events; None for [DONE]."""
        async for line in self.lines():
            if line.startswith(b"data: "):
                data = line[6:].strip()
                yield None if data == b"[DONE]" else json.loads(data)

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def _line(self) -> bytes:
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        return line

    def close(self) -> None:
        """At once, as a client does that goes away."""
        with contextlib.suppress(Exception):
            self.writer.transport.abort()


def message(
    method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, host: str = "127.0.0.1"
) -> bytes:
    """A request's bytes; `body` is sent as JSON."""
    data = b"" if body is None else json.dumps(body).encode()
    fields = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data


async def send(address: Address, data: bytes) -> Answer:
    """Send a request over a connection of its own, and read the answer's head. Raises OSError, IncompleteReadError."""
    reader, writer = await asyncio.open_connection(*address, limit=LINE)
    try:
        writer.write(data)
        await writer.drain()
        return await read_head(reader, writer)
    except BaseException:
        writer.transport.abort()
        raise


async def read_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    fields = (line.split(":", 1) for line in head[1:] if ":" in line)
    return Answer(status, {name.lower(): value.strip() for name, value in fields}, reader, writer)


async def ask(
    address: Address, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Status and body, parsed if it is JSON."""
    answer = await send(address, message(method, path, body, headers))
    try:
        data = await answer.body()
    finally:
        answer.close()
    with contextlib.suppress(ValueError):
        return answer.status, json.loads(data)
    return answer.status, data
