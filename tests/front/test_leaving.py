"""Clients that go away at any moment, on every route that generates; and clients that stay but do not read."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from radixmill.front.session.limits import THREAD_CHARS
from tests.fakes import EOS, ByteText, EchoClient
from tests.front.kit import CHAT, TEXT, Live, install, make_front, says, serving, until
from tests.front.test_api_server import request_bytes, stream_text

LONG = says("x" * 400)
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def bodies(text: str) -> dict[str, dict[str, Any]]:
    """A request of each route that generates."""
    messages = [{"role": "user", "content": text}]
    return {
        CHAT: {"messages": messages},
        TEXT: {"prompt": text, "max_tokens": 300},
        "/generate": {"text": text, "sampling_params": {"max_new_tokens": 300}},
        "/v1/responses": {"input": text},
        "/v1/messages": {"model": "echo", "max_tokens": 300, "messages": messages},
    }


BOUND = {
    CHAT: {"response_format": {"type": "json_object"}},
    TEXT: {"regex": "a+"},
    "/generate": {"sampling_params": {"regex": "a+"}},
    "/v1/responses": {"text": {"format": {"type": "json_object"}}},
    "/v1/messages": {"tools": [TOOL], "tool_choice": {"type": "any"}},
}
ROUTES = list(bodies(""))


@contextmanager
def connected(live: Live, path: str, body: dict[str, Any], *, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A connection over which a request has been sent; closed at the end."""
    with socket.socket() as raw:
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(20)
        raw.connect(("127.0.0.1", live.port))
        raw.sendall(request_bytes(path, body))
        yield raw


def idle(client: EchoClient, front: Any) -> bool:
    return not client.live and not front.session.live


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_while_it_waits_for_its_first_token(path, stream):
    client = EchoClient(LONG, pause=60)
    app, front = make_front(client)
    with serving(app) as live:
        with connected(live, path, {**bodies("hi")[path], "stream": stream}):
            until(lambda: bool(client.live))
        until(lambda: idle(client, front) and not live.connections)
    assert client.cancelled == [0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_in_the_middle(path, stream):
    client = EchoClient(LONG, pause=0.05)
    app, front = make_front(client)
    with serving(app) as live:
        with connected(live, path, {**bodies("hi")[path], "stream": stream}) as raw:
            if stream:
                assert raw.recv(20).startswith(b"HTTP/1.1 200")
            until(lambda: bool(client.live))
        until(lambda: idle(client, front) and not live.connections)
    assert client.cancelled == [0]


class SlowText(ByteText):
    """Tokenises when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def encode(self, text: str, **more: Any) -> list[int]:
        self.begun.set()
        self.go.wait(600)
        return super().encode("short", **more)

    def encode_chat(self, chat: Any) -> list[int]:
        return self.encode("")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_while_its_prompt_is_tokenised(path, stream):
    text, client = SlowText(), EchoClient()
    app, front = make_front()
    install(front, client, text)
    with serving(app) as live:
        try:
            with connected(live, path, {**bodies("x" * (THREAD_CHARS + 1))[path], "stream": stream}):
                until(text.begun.is_set)
                assert front.session.live == 1
            until(lambda: idle(client, front) and not live.connections)
        finally:
            text.go.set()
    assert not client.requests, "nothing reached the engine"


class SlowGrammars(EchoClient):
    """Never says whether a grammar can be had."""

    async def control(self, verb: str, **args: Any) -> dict[str, Any]:
        self.controls.append(verb)
        try:
            await asyncio.sleep(600)
        finally:
            self.controls.remove(verb)
        return {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_while_its_grammar_is_built(path, stream):
    client = SlowGrammars()
    app, front = make_front(client)
    with serving(app) as live:
        with connected(live, path, {**bodies("hi")[path], **BOUND[path], "stream": stream}):
            until(lambda: client.controls == ["grammar"])
        until(lambda: not client.controls and not front.session.live and not live.connections)
    assert not client.requests


@pytest.mark.parametrize("stream", [False, True])
def test_who_closes_one_side_is_gone(stream):
    """Documented: a half-closed connection is taken for a closed one."""
    client = EchoClient(LONG, pause=0.05)
    app, front = make_front(client)
    with serving(app) as live, connected(live, CHAT, {**bodies("hi")[CHAT], "stream": stream}) as raw:
        until(lambda: bool(client.live))
        raw.shutdown(socket.SHUT_WR)
        until(lambda: idle(client, front))
        assert client.cancelled == [0]
        until(lambda: not live.connections)


def test_who_resets_the_connection_is_gone():
    client = EchoClient(LONG, pause=0.05)
    app, front = make_front(client)
    with serving(app) as live, connected(live, CHAT, {**bodies("hi")[CHAT], "stream": True}) as raw:
        assert raw.recv(20)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        until(lambda: idle(client, front))
    assert client.cancelled == [0]


# --- slow readers: more than the kernel's buffers hold

MUCH = {**bodies("hi")[CHAT], "n": 100, "stream": True}


def stuck(client: EchoClient) -> bool:
    """Whether the stream is blocked: it does not advance any more."""
    before = dict(sizes(client))
    threading.Event().wait(0.2)
    return bool(before) and before == sizes(client)


def sizes(client: EchoClient) -> dict[int, int]:
    """Deltas that each sequence has still to say."""
    return {seq: len(stream._queues[seq]) for seq, stream in list(client.streams.items())}


def test_a_reader_that_stops_reading_is_cut_off():
    client = EchoClient(LONG)
    app, front = make_front(client)
    with serving(app, write_seconds=1.0) as live, connected(live, CHAT, MUCH, receive_buffer=2048) as raw:
        assert raw.recv(15) == b"HTTP/1.1 200 OK"
        until(lambda: idle(client, front) and not live.connections, 20)
        assert len(client.cancelled) > 50, "it was not over"
        with pytest.raises(ConnectionResetError):
            while raw.recv(1 << 16):
                pass


def test_others_do_not_suffer_from_it():
    client = EchoClient(lambda request, choice: [*(b"x" * 400 if request.prompt[1:3] == (*b"hi",) else b"steady"), EOS])
    app, front = make_front(client)
    with (
        serving(app) as live,
        connected(live, CHAT, {**MUCH, "messages": [{"role": "user", "content": "hi!"}]}, receive_buffer=2048) as raw,
    ):
        client.script = lambda request, choice: [*b"steady", EOS]
        assert raw.recv(15) == b"HTTP/1.1 200 OK"
        until(lambda: stuck(client), 20)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(stream_text, [live.url] * 24)) == ["steady"] * 24
        raw.close()
        until(lambda: idle(client, front), 20)


def test_a_slow_reader_that_reads_gets_everything():
    client = EchoClient(LONG)
    app, _ = make_front(client)
    with (
        serving(app, write_seconds=3.0, judge=False) as live,
        connected(live, CHAT, MUCH, receive_buffer=1 << 18) as raw,
    ):
        heard, began, rested = bytearray(), time.monotonic(), 0
        while b"[DONE]" not in heard[-100:]:
            heard += raw.recv(1 << 18)
            if len(heard) > rested + (1 << 20):  # the kernel takes more of the answer in steps of about as much
                rested = len(heard)
                threading.Event().wait(0.5)  # not so long that one who stands still for a moment is cut off
        assert time.monotonic() > began + 3.5, "it was too fast to prove anything"
    assert heard.count(b'"finish_reason":"stop"') == 100 and not client.cancelled


def test_an_answer_that_nobody_reads_does_not_keep_its_connection():
    """The answer was made long ago, but the kernel does not take it."""
    client = EchoClient(LONG)
    app, front = make_front(client)
    body = {**bodies("hi")[CHAT], "n": 30, "logprobs": True, "top_logprobs": 20}
    with serving(app, write_seconds=1.0) as live, connected(live, CHAT, body, receive_buffer=2048):
        until(lambda: bool(client.requests) and idle(client, front), 60)
        until(lambda: not live.connections, 20)


def test_who_reads_nothing_and_closes_its_side_is_gone_at_once():
    """Not only when what was written has been flushed, which would be never."""
    client = EchoClient(LONG)
    app, front = make_front(client)
    with serving(app, write_seconds=600) as live, connected(live, CHAT, MUCH, receive_buffer=2048) as raw:
        assert raw.recv(15) == b"HTTP/1.1 200 OK"
        until(lambda: stuck(client), 20)
        raw.shutdown(socket.SHUT_WR)
        until(lambda: idle(client, front))
        assert len(client.cancelled) > 50
