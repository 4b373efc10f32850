"""An app over the EchoClient, and ways to call it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from radixmill.core.config import Config, ServerOptions
from radixmill.front.api.app import create_app
from radixmill.front.api.connections import Limits
from radixmill.front.api.protocol import House
from radixmill.front.session import Front, Session, door
from radixmill.front.session.receipt import Notary
from tests.fakes import EOS, ByteText, EchoClient
from tests.front import openapi

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def says(text: str | bytes, *, end: Sequence[int] = (EOS,)) -> Callable[..., list[int]]:
    """A script: every choice says this."""
    raw = text.encode() if isinstance(text, str) else text
    return lambda request, choice: [*raw, *end]


def make_front(client: EchoClient | None = None) -> tuple[FastAPI, Front]:
    """An app, and what it stands on: cheaper to change than to make another."""
    front = Front(Config())
    install(front, client or EchoClient())
    return create_app(front), front


def install(front: Front, client: EchoClient, text: ByteText | None = None) -> None:
    front.client, front.session = client, Session(text or ByteText(), client, ("echo",))


def make_app(
    client: EchoClient | None = None,
    *,
    text: ByteText | None = None,
    defaults: dict[str, float] | None = None,
    max_requests: int = 64,
    notary: Notary | None = None,
    max_tokens: int = 1 << 20,
    wait: float | None = None,
    seconds: float | None = None,
    **server: Any,
) -> FastAPI:
    client = client or EchoClient()
    config = replace(Config(), server=ServerOptions(**server))
    limits = door.Bounds(requests=max_requests, tokens=max_tokens, wait=wait, seconds=seconds)
    names = ("echo", "echo-alias")
    session = Session(text or ByteText(), client, names, defaults=defaults, limits=limits, notary=notary)
    return create_app(Front(config, client, session))


def call(app: FastAPI, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """One request, in memory; what comes back is held against the published schema where the route is published."""

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as http:
            return await http.request(method, path, **kwargs)

    response = asyncio.run(go())
    assert not (faults := openapi.judge(method, response.request.url.path, response)), "\n".join(faults)
    return response


def post(app: FastAPI, path: str, body: dict[str, Any], **kwargs: Any) -> httpx.Response:
    return call(app, "POST", path, json=body, **kwargs)


def answer(app: FastAPI, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = post(app, path, body)
    assert response.status_code == 200, response.text
    return response.json()


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response, whose shape and status are checked."""
    assert response.status_code == status, (response.status_code, response.text)
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def chunks(app: FastAPI, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a stream that ends well."""
    response = post(app, path, {**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return parse_sse(response.text)


def parse_sse(text: str) -> list[dict[str, Any]]:
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(line.startswith("data: ") for line in lines[:-1])
    return [json.loads(line[6:]) for line in lines[:-2]]


class Judged:
    """An app whose every complete answer is held against the published schema."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.faults: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer: dict[str, Any] = {"content": bytearray()}

        async def heard(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.update(status_code=message["status"], headers=message["headers"])
            else:
                answer["content"] += message.get("body", b"")
                if not message.get("more_body"):
                    self.faults += openapi.judge(
                        scope["method"], scope["path"], httpx.Response(**answer | {"content": bytes(answer["content"])})
                    )
            await send(message)

        await self.app(scope, receive, heard)


@dataclass
class Live:
    url: str
    port: int
    house: House
    server: uvicorn.Server

    @property
    def connections(self) -> int:
        return len(self.house.connections)


@contextmanager
def serving(app: FastAPI, *, judge: bool = True, **limits: Any) -> Iterator[Live]:
    """The app on a real socket, in a thread. Answers are judged, as those of `call`. `limits`: others than the defaults."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    judged = Judged(app)
    house = House(Limits.of(ServerOptions())._replace(**limits))
    given = {"http": house.protocol, "ws": "none", "lifespan": "off", "proxy_headers": False, "server_header": False}
    given["timeout_keep_alive"] = 3600  # uvicorn's own: we count ourselves
    server = uvicorn.Server(
        uvicorn.Config(judged if judge else app, log_config=None, timeout_graceful_shutdown=5, **given)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        yield Live(f"http://127.0.0.1:{port}", port, house, server)
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
    assert not judged.faults, "\n".join(judged.faults)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def makes_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was logged that a client could have caused on purpose: no traceback, no error, no warning."""
    loud = [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]
    assert not loud, "\n".join(record.getMessage() for record in loud)
