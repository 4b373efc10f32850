"""A small HTTP/1.1 client over asyncio streams: JSON requests, and server-sent events.

The load generator shares the machine with the server it measures. A general client spends more time on one streamed
token than a small model's server does; this one does a readline and no more. One connection per request, no proxies, no
redirects, TLS by the system's defaults.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

CONNECT_SECONDS = 10.0
_LINE_LIMIT = 8 << 20  # longest line (an event, a header) that is accepted, bytes


class HttpError(Exception):
    """The server's answer is not what was asked for; `status` is None where there was no answer at all."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Origin:
    """Where a server is."""

    host: str
    port: int
    tls: bool
    prefix: str  # path before /v1/…, without a slash at its end

    @staticmethod
    def parse(url: str) -> Origin:
        """From `http://host:port[/prefix][/v1]`; the scheme may be left out. ValueError where that is not a URL."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) URL: {url}")
        tls = parts.scheme == "https"
        return Origin(
            parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/").removesuffix("/v1")
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


@dataclass
class Response:
    """An answer whose head has been read; the body follows line by line or whole."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    _reader: asyncio.StreamReader

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, in the pieces it arrives in."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            async for piece in self._chunked():
                yield piece
        elif (length := self.headers.get("content-length")) is not None:
            yield await self._reader.readexactly(int(length))
        else:
            while piece := await self._reader.read(65536):
                yield piece

    async def _chunked(self) -> AsyncIterator[bytes]:
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            piece = await self._reader.readexactly(size + 2)
            yield piece[:-2]

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.chunks()])

    async def events(self) -> AsyncIterator[bytes]:
        """The `data:` of each server-sent event (one line each, as every OpenAI-compatible server writes them)."""
        rest = b""
        async for piece in self.chunks():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()


@asynccontextmanager
async def send(
    origin: Origin, method: str, path: str, *, json: object = None, key: str | None = None
) -> AsyncIterator[Response]:
    """One request on a connection of its own; the connection closes when the block ends. Raises HttpError."""
    reader, writer = await _connect(origin)
    try:
        writer.write(_request(origin, method, path, json, key))
        await writer.drain()
        yield await _head(reader)
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:  # a broken or foreign answer
        raise HttpError(f"{origin}{path}: {type(error).__name__}: {error}") from error
    finally:
        writer.close()


async def fetch(
    origin: Origin, method: str, path: str, *, json: object = None, key: str | None = None
) -> tuple[int, bytes]:
    """Status and whole body of one request."""
    async with send(origin, method, path, json=json, key=key) as response:
        return response.status, await response.body()


async def _connect(origin: Origin) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context() if origin.tls else None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.open_connection(origin.host, origin.port, ssl=context, limit=_LINE_LIMIT)
    except (OSError, TimeoutError) as error:
        raise HttpError(f"{origin} does not answer: {error or 'no connection in time'}") from error


def _request(origin: Origin, method: str, path: str, json: object, key: str | None) -> bytes:
    body = b"" if json is None else msgspec.json.encode(json)
    lines = [
        f"{method} {origin.prefix}{path} HTTP/1.1",
        f"Host: {origin.host}:{origin.port}",
        "Accept: application/json, text/event-stream",
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    if body:
        lines.append("Content-Type: application/json")
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def _head(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("not an HTTP/1 answer")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Response(int(rest[:3]), headers, reader)
