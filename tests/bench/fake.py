"""A tiny OpenAI-compatible server in a thread, with the faults a load generator must survive."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeServer:
    """A word of a prompt is a token, and so is `w ` of an output. Counts what it sees."""

    model: str = "fake-model"
    token_seconds: float = 0.0
    tokenize: bool = True
    usage: bool = True
    chunked: bool = True  # transfer encoding; else the connection's end ends the body
    cached: int = 0  # prompt tokens said to be cached
    key: str | None = None
    info: object = None  # what /server_info says; None: there is no such route
    fail_every: int = 0  # every n-th completion is a 500
    fault: str = ""  # "error" in the stream, "garbage", "cut" short, "hang", "empty", "not-http"
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-length")), 0
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            if self.key and f"Bearer {self.key}" not in head:
                self.whole(writer, 401, {"error": {"message": "key"}})
            else:
                await self.route(head.split(" ")[1], body, writer)
            await writer.drain()
        writer.close()

    async def route(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if self.fault == "not-http":
            writer.write(b"hello\r\n\r\n")
        elif path == "/v1/models":
            self.whole(writer, 200, {"data": [{"id": self.model}]})
        elif path == "/tokenize" and self.tokenize:
            self.whole(writer, 200, {"tokens": [0] * len(body["prompt"].split())})
        elif path == "/server_info" and self.info is not None:
            self.whole(writer, 200, self.info)
        elif path == "/v1/completions":
            self.bodies.append(body)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            try:
                await self.complete(body, writer)
            finally:
                self.running -= 1
        else:
            self.whole(writer, 404, {"error": {"message": "no such route"}})

    def whole(self, writer: asyncio.StreamWriter, status: int, answer: object) -> None:
        data = json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    async def complete(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        measured = len(self.bodies) - 1  # the first is the warm-up
        if self.fail_every and measured and measured % self.fail_every == 0:
            return self.whole(writer, 500, {"error": {"message": "boom"}})
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n" if self.chunked else b"\r\n")
        if self.fault and measured:
            return await self.faulty(writer)
        for _ in range(body["max_tokens"]):
            await asyncio.sleep(self.token_seconds)
            self.event(writer, {"choices": [{"index": 0, "text": "w "}], "usage": None})
            await writer.drain()
        self.event(writer, {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
        if self.usage:
            details = {"cached_tokens": self.cached}
            prompt = len(body["prompt"].split())
            usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"], "prompt_tokens_details": details}
            self.event(writer, {"choices": [], "usage": usage})
        self.piece(writer, b"data: [DONE]\n\n")
        if self.chunked:
            writer.write(b"0\r\n\r\n")

    async def faulty(self, writer: asyncio.StreamWriter) -> None:
        if self.fault == "error":
            self.event(writer, {"error": {"message": "engine gone"}})
        elif self.fault == "garbage":
            self.piece(writer, b"data: {oops\n\n")
        elif self.fault == "empty":
            self.piece(writer, b"data: [DONE]\n\n")
            writer.write(b"0\r\n\r\n")
        elif self.fault == "hang":
            await asyncio.sleep(30)
        elif self.fault == "cut":
            self.event(writer, {"choices": [{"text": "w "}]})
            writer.write(b"ff\r\ndata: {")

    def event(self, writer: asyncio.StreamWriter, data: object) -> None:
        self.piece(writer, b"data: " + json.dumps(data).encode() + b"\n\n")

    def piece(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        # In two pieces, so that events are torn between chunks.
        for part in (data[:9], data[9:]):
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n" if self.chunked else part)


@contextmanager
def serving(fake: FakeServer) -> Iterator[FakeServer]:
    """Run it on a free local port until the block ends."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(fake.handle, "127.0.0.1", 0, limit=1 << 22))
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(_shut(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _shut(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
