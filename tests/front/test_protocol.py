"""Raw sockets: what clients may do to a connection, and what becomes of the server. Never a 500, never a traceback, no leak."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from radixmill.core.errors import NotReady, Overloaded
from radixmill.front.api.connections import HeadTooLarge, Limits, TooSlow, UrlTooLong, network
from radixmill.front.api.protocol import PIPELINED, READ, House, _raw_answer
from tests.fakes import EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, Live, make_app, makes_no_noise, says, serving, until

GET = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
SMALL = {"header_bytes": 2000, "headers": 20, "url_bytes": 300}


@contextlib.contextmanager
def quiet_server(caplog: pytest.LogCaptureFixture, client: EchoClient | None = None, **limits: Any) -> Iterator[Live]:
    """A server that at the end has lost nothing, kept nothing, and logged nothing of note."""
    client = client or EchoClient(says("hi"))
    with serving(make_app(client, max_body_bytes=100_000), **limits) as live:
        yield live
        assert httpx.get(live.url + "/live", trust_env=False, timeout=30).status_code == 200
        until(lambda: not live.house.connections and not live.server.server_state.tasks, 10)
        assert not live.house._from and not live.server.server_state.connections
    assert not client.live
    makes_no_noise(caplog)


def dial(live: Live, timeout: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", live.port), timeout=timeout)


def heard(raw: socket.socket) -> bytes:
    """Everything, to the end of the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := raw.recv(1 << 16):
            said += part
    return said


def ask(live: Live, *parts: bytes) -> bytes:
    """What the server says to these bytes, until it closes."""
    with dial(live) as raw:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                raw.sendall(part)
        return heard(raw)


def statuses(said: bytes) -> list[int]:
    """Of all answers in it; bodies of known length, or none."""
    found = []
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        found.append(int(head.split(b" ")[1]))
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        said = said[int(fields.get(b"content-length", b"0")) :]
    return found


def only(said: bytes, status: int) -> dict[str, Any]:
    """The error of the one answer."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), said[:200]
    assert b"connection: close" in head.lower(), head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def request(path: str, body: dict[str, Any], more: bytes = b"") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + more + b"\r\n" + content


# --- sizes


@pytest.mark.parametrize(
    "head",
    [
        b"GET /live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 3000 + b"\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 150) for i in range(19)) + b"\r\n",
        b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 21 + b"\r\n",
        b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"A" * 3000 + b": b\r\n\r\n",
    ],
)
def test_heads_that_are_too_large(caplog, head):
    with quiet_server(caplog, **SMALL) as live:
        for parts in ([head], [head[i : i + 100] for i in range(0, len(head), 100)]):
            assert only(ask(live, *parts), 431)["code"] == "headers_too_large"


def test_a_refusal_has_the_shape_that_clients_of_the_path_read(caplog):
    with quiet_server(caplog, **SMALL) as live:
        said = ask(live, b"POST /v1/messages?x=1 HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 21 + b"\r\n")
    head, _, content = said.partition(b"\r\n\r\n")
    body = json.loads(content)
    assert head.startswith(b"HTTP/1.1 431 ") and b"access-control-allow-origin: *" in head.lower()
    assert body["type"] == "error" and set(body["error"]) == {"type", "message"}
    assert b"x-request-id: " + body["request_id"].encode() in head.lower()
    assert b"\r\nrequest-id: " + body["request_id"].encode() in head.lower()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages"])
def test_a_refusal_has_the_headers_of_the_apps_errors(caplog, path):
    with quiet_server(caplog, **SMALL) as live:
        theirs = httpx.put(live.url + path, trust_env=False, headers={"origin": "http://a"})
        head, _, _ = ask(live, f"PUT {path} HTTP/1.1\r\nHost: x\r\n".encode() + b"a: b\r\n" * 21).partition(b"\r\n\r\n")
    ours = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert set(theirs.headers) - {"date", "allow", "vary"} <= set(ours)
    for name in ("content-type", "access-control-allow-origin", "access-control-expose-headers"):
        assert ours[name] == theirs.headers[name]


def test_every_refusal_that_passes_says_when_to_come_back():
    """And none that does not: sent again, it would be refused again."""
    made = [
        NotReady("x", retry_after=1.0),
        Overloaded("x", retry_after=1.2),
        TooSlow("x"),
        UrlTooLong("x"),
        HeadTooLarge("x"),
    ]
    for refusal, retry in zip(made, (b"1", b"2", None, None, None), strict=True):
        head, _, body = _raw_answer(refusal, "/v1/models").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % refusal.status) and json.loads(body) == refusal.body()
        assert (b"\r\nretry-after: %s\r\n" % retry in head) if retry else b"\r\nretry-after:" not in head


def test_a_head_without_an_end_is_refused_while_it_comes(caplog):
    """Of a field without an end the parser tells nothing; it must not be kept either."""
    with quiet_server(caplog, **SMALL) as live:
        for start in (b"GET /live HTTP/1.1\r\nHost: x\r\nX: ", b"GET /live HTTP/1.1\r\nX", b"\r\n"):
            with dial(live) as raw:
                raw.sendall(start)
                with pytest.raises(ConnectionError):
                    for _ in range(1_000_000):
                        raw.sendall((b"\r\n" if start == b"\r\n" else b"aa") * 8192)


def test_urls_that_are_too_long(caplog):
    with quiet_server(caplog, **SMALL) as live:
        for length in (301, 5000, 2 * READ):
            url = b"/live?" + b"a" * (length - 6)
            assert only(ask(live, b"GET " + url + b" HTTP/1.1\r\nHost: x\r\n\r\n"), 414)["code"] == "url_too_long"
        with dial(live) as raw:
            raw.sendall(b"GET /live?" + b"a" * 290 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert statuses(heard(raw)) == [200]


def test_what_just_fits_is_served(caplog):
    with quiet_server(caplog, **SMALL) as live:
        head = b"Host: x\r\nConnection: close\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(18))
        assert statuses(ask(live, b"GET /live HTTP/1.1\r\n" + head + b"\r\n")) == [200]


def test_a_body_that_is_nearly_all_framing(caplog):
    begin = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with quiet_server(caplog) as live:
        for junk in (b"1;" + b"x" * (8 * READ), b"1;a=b\r\n \r\n" * (2 * READ), b"1\r\n \r\n" * (2 * READ)):
            said = ask(live, begin, junk)
            assert said == b"" or b"request_too_large" in said or only(said, 400)["code"] == "invalid_http"


def test_trailers_are_counted_and_dropped(caplog):
    """Nor do they end up among the next request's headers."""
    chunked = (
        b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    body = b'11\r\n{"prompt": "abc"}\r\n0\r\n'
    last = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with quiet_server(caplog) as live:
        said = ask(live, chunked + body + b"X-Request-Id: smuggled\r\n\r\n", last)
        assert statuses(said) == [200, 200] and b"smuggled" not in said
        said = ask(live, chunked + body + b"A: b\r\n" * 500 + b"\r\n")
        assert only(said, 431)


# --- times

FAST = {"header_seconds": 1.0, "body_seconds": 0.3, "keep_alive": 0.3, "write_seconds": 0.5}


def dribble(live: Live, start: bytes, drop: bytes, seconds: float = 20.0) -> tuple[bytes, float]:
    """Send a drop at a time until the server has enough; what it says, and after how long."""
    began = time.monotonic()
    with dial(live, 0.05) as raw:
        raw.sendall(start)
        said = b""
        while time.monotonic() - began < seconds:
            with contextlib.suppress(ConnectionError):
                raw.sendall(drop)
            try:
                part = raw.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if not part:
                break
            said += part
        return said, time.monotonic() - began


@pytest.mark.parametrize("start", [b"", b"GET /li", b"GET /live HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_comes_drop_by_drop(caplog, start):
    with quiet_server(caplog, **FAST) as live:
        said, took = dribble(live, start, b"a" if start else b"\r\n")
        assert took < 10 and only(said, 408)["code"] == "request_timeout"


def test_a_connection_that_says_nothing_is_closed(caplog):
    with quiet_server(caplog, **FAST) as live:
        assert ask(live) == b""
        with dial(live) as raw:
            raw.sendall(GET)
            assert statuses(heard(raw)) == [200], "kept a while, then closed"


def test_a_body_that_comes_drop_by_drop(caplog):
    client = EchoClient(says("hi"))
    with quiet_server(caplog, client, **FAST) as live:
        start = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n{"
        said, took = dribble(live, start, b" ")
        assert took < 10 and only(said, 408)["code"] == "request_timeout"
        chunked = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
        said, took = dribble(live, chunked, b"1\r\n \r\n")
        assert took < 10 and only(said, 408)
        said, took = dribble(live, chunked + b"1;", b"x")
        assert took < 10 and only(said, 408)
    assert not client.requests


def test_a_body_at_a_fair_rate_may_take_its_time(caplog):
    with quiet_server(caplog, **{**FAST, "body_rate": 100}) as live, dial(live) as raw:
        content = json.dumps({"prompt": "abc", "more": "x" * 1000}).encode()
        raw.sendall(
            b"POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        began = time.monotonic()
        for i in range(0, len(content), 100):
            raw.sendall(content[i : i + 100])
            until_passed(began, i / 1000)
        assert statuses(heard(raw)) == [200] and time.monotonic() - began > 0.9


def until_passed(began: float, seconds: float) -> None:
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def test_a_long_answer_is_no_slow_request(caplog):
    """The times are the client's: while it waits for us, none runs."""
    with quiet_server(caplog, EchoClient(says("abcdef"), pause=0.2), **FAST) as live:
        said = ask(live, request(TEXT, {"prompt": "x"}, b"Connection: close\r\n"))
        assert statuses(said) == [200]


def test_an_answer_before_the_body_is_whole_does_not_keep_the_connection(caplog):
    """A refused upload may end, but not go on for ever."""
    with quiet_server(caplog, **{**FAST, "body_seconds": 60.0}) as live:
        start = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
        said, took = dribble(live, start, b"x" * 100)
        assert took < 10 and statuses(said) == [404]


def test_a_client_that_does_not_read_is_dropped(caplog):
    client = EchoClient(says("x" * 500), cuts=(400,))
    with quiet_server(caplog, client, **FAST) as live, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(20)
        raw.connect(("127.0.0.1", live.port))
        many = {"prompt": ["x"] * 60, "n": 2, "max_tokens": 400, "stream": True, "logprobs": 5}
        raw.sendall(request(TEXT, many))
        until(lambda: bool(client.live), 20)
        until(lambda: not client.live and not live.house.connections, 30)


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_a_client_that_reads_slowly_but_always_gets_all(caplog, more):
    """Also an answer in one piece, of which nothing can be taken back: for longer than the write timeout."""

    async def large() -> Response:
        return Response(b"x" * 16_000_000)

    def read(live: Live) -> tuple[int, float]:
        """How many bytes came, and for how many seconds at most nothing was read."""
        with socket.socket() as raw, contextlib.suppress(ConnectionError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            raw.settimeout(60)
            raw.connect(("127.0.0.1", live.port))
            raw.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
            began, got, pause, last = time.monotonic(), 0, 0.0, time.monotonic()
            while got < 16_000_000 and (part := raw.recv(1 << 16)):
                got += len(part)
                until_passed(began, got / 8_000_000)
                pause, last = max(pause, time.monotonic() - last), time.monotonic()
            assert got < 16_000_000 or time.monotonic() - began > 3 * FAST["write_seconds"]
        return got, max(pause, time.monotonic() - last)

    app = make_app()
    app.add_api_route("/large", large)
    with serving(app, judge=False, **FAST) as live:
        for _ in range(5):
            got, pause = read(live)
            if got >= 16_000_000 or pause < FAST["write_seconds"] / 2:  # else it was kept from reading always
                break
        assert got >= 16_000_000, f"closed after {got} bytes"
    makes_no_noise(caplog)


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("path, status", [(b"/nowhere", 404), (b"/v1/completions", 413)])
def test_who_is_refused_while_sending_can_take_the_answer(caplog, path, status, more):
    """It reads only when it has sent all. Were the connection closed before, it would be reset, and the answer lost."""
    size = 4 * 100_000
    with quiet_server(caplog, body_rate=1 << 16) as live, dial(live) as raw:
        raw.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (path, more, size))
        began = time.monotonic()
        for sent in range(0, size, 10_000):
            raw.sendall(b" " * 10_000)
            until_passed(began, sent / 160_000)
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 %d " % status)


# --- numbers


def test_more_connections_than_there_may_be(caplog):
    with quiet_server(caplog, connections=5) as live:
        held = [dial(live) for _ in range(5)]
        until(lambda: len(live.house.connections) == 5)
        for sent in (b"", GET, request(CHAT, HELLO)):
            said = ask(live, sent)
            assert only(said, 503)["code"] == "not_ready" and b"retry-after: 1" in said
        held.pop().close()
        until(lambda: len(live.house.connections) == 4)
        assert httpx.get(live.url + "/live", trust_env=False, timeout=30).status_code == 200
        for raw in held:
            raw.close()


def test_more_connections_from_one_address_than_there_may_be(caplog):
    with quiet_server(caplog, per_address=3) as live:
        held = [dial(live) for _ in range(3)]
        until(lambda: len(live.house.connections) == 3)
        assert only(ask(live, GET), 429)["code"] == "rate_limit_exceeded"
        for raw in held:
            raw.close()


def test_whom_an_address_belongs_to():
    assert network("10.1.2.3") == network("::ffff:10.1.2.3") == "10.1.2.3"
    assert network("2001:db8::1") == network("2001:db8::ffff:0:1%eth0") == "2001:db8::/64" != network("2001:db8:0:1::1")


# --- many requests on one connection


def test_a_thousand_requests_at_once(caplog):
    with quiet_server(caplog) as live:
        said = statuses(ask(live, GET * 1000))
        assert 1 <= len(said) <= 1000 and said[0] == 200 and set(said) <= {200, 429}
        assert said == [200] * (len(said) - 1) + [429] or set(said) == {200}


def test_so_many_requests_wait_on_a_connection(caplog):
    client = EchoClient(says("a"), pause=0.5)
    with quiet_server(caplog, client) as live:
        said = statuses(ask(live, request(TEXT, {"prompt": "x"}) + GET * 2 * PIPELINED))
        assert said == [200] * (1 + PIPELINED) + [429]


def test_a_thousand_requests_one_after_the_other(caplog):
    with quiet_server(caplog) as live, dial(live) as raw:
        for _ in range(1000):
            raw.sendall(GET)
            said = b""
            while not said.endswith(b'{"alive":true}'):
                said += raw.recv(4096)
            assert said.startswith(b"HTTP/1.1 200")


def test_answers_to_pipelined_requests_come_in_order(caplog):
    with quiet_server(caplog) as live:
        sent = [request("/tokenize", {"prompt": "a" * i}) for i in range(1, 20)]
        said = ask(live, b"".join(sent) + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        counts = [json.loads(part.partition(b"\r\n\r\n")[2])["count"] for part in said.split(b"HTTP/1.1 ")[1:-1]]
        assert counts == list(range(1, 20))


def test_a_client_that_leaves_with_requests_queued_stops_all(caplog):
    """uvicorn tells only the latest request that its client is gone."""
    client = EchoClient(says("x" * 400), pause=30)
    with quiet_server(caplog, client) as live:
        with dial(live) as raw:
            raw.sendall(request(TEXT, {"prompt": "x"}) * 3)
            until(lambda: bool(client.live))
        until(lambda: not client.live)
    assert len(client.requests) == 1, "the queued ones never began"


def test_garbage_behind_a_request_waits_for_its_answer(caplog):
    """An error said in the middle of another answer would be read as a part of it."""
    client = EchoClient(says("abc"), pause=0.05)
    with quiet_server(caplog, client) as live:
        said = ask(live, request(CHAT, {**HELLO, "stream": True}) + b"\0\0garbage\r\n\r\n")
        stream, _, rest = said.partition(b"0\r\n\r\n")
        assert stream.count(b"data: ") == 6 and stream.rstrip().endswith(b"[DONE]")
        assert only(rest, 400)["code"] == "invalid_http"


def test_a_large_request_behind_another_is_refused(caplog):
    client = EchoClient(says("abc"), pause=0.05)
    with quiet_server(caplog, client) as live:
        said = ask(live, request(TEXT, {"prompt": "x"}) + request(TEXT, {"prompt": "x" * 90_000}))
        assert statuses(said) == [200, 429]
    assert len(client.requests) == 1


# --- shapes

MALFORMED = {
    "nothing known": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET / HTTP/3.7\r\n\r\n",
    "no method": b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method of its own": b"FETCH / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target that is not ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a port that is none": b"GET http://x:99999999/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in a value": b"GET /live HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
    "a NUL in a name": b"GET /live HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n",
    "a blank in a name": b"GET /live HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
    "a blank before the colon": b"GET /live HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n",
    "no colon": b"GET /live HTTP/1.1\r\nHost: x\r\nhello\r\n\r\n",
    "a folded field": b"GET /live HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "a bare CR": b"GET /live HTTP/1.1\rHost: x\r\r",
    "two hosts": b"GET /live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "two lengths": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a list of lengths": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\n{}",
    "a length below nothing": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
    "a length with a plus": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}",
    "a length in hex": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\n{}",
    "an endless length": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "length and chunks": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "chunked, but not last": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked in disguise": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a chunk of no size": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk of endless size": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"F" * 17,
    "a chunk below nothing": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a chunk longer than it says": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n",
    "a bare LF in a chunk's size": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\n{\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_no_request(caplog, name):
    with quiet_server(caplog, **FAST) as live:
        assert only(ask(live, MALFORMED[name]), 400)["code"] == "invalid_http"


@pytest.mark.parametrize(
    "start, status",
    [
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"TRACE /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET http://example.com/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"GET /live HTTP/1.0\r\n\r\n", 200),
        (b"GET /live%00%0a%0d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /live?%00&%ff=%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\xff\x80b\r\nConnection: close\r\n\r\n", 200),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: \xff\xfe\r\nConnection: close\r\n\r\n", 200),
    ],
)
def test_odd_but_known(caplog, start, status):
    with quiet_server(caplog) as live:
        assert statuses(ask(live, start)) == [status]


@pytest.mark.parametrize("wish", [b"h2c", b"websocket", b"nonsense"])
def test_wishes_for_another_protocol_are_passed_over(caplog, wish):
    """And what follows is the body: read as a request, it would be one that nobody sent."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + wish + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
    post = request("/tokenize", {"prompt": "abc"}, upgrade)
    with quiet_server(caplog) as live:
        for cut in (len(post), len(post) - 5, post.index(b"\r\n\r\n") + 4, 30):
            said = ask(live, post[:cut], post[cut:], GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert statuses(said) == [200, 200] and b'"count":3' in said
        smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + upgrade + b"Content-Length: %d\r\n\r\n" % len(smuggled)
        said = ask(live, head + smuggled, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert statuses(said) == [404, 200]
        assert set(statuses(ask(live, (b"GET /live HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n") * 1000))) <= {200, 429}


def test_a_client_that_waits_for_100_gets_it_and_a_refused_one_does_not(caplog):
    body = json.dumps({"prompt": "abc"}).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with quiet_server(caplog) as live:
        with dial(live) as raw:
            raw.sendall(head % (b"/tokenize", len(body)))
            assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            raw.sendall(body)
            assert statuses(heard(raw)) == [200]
        assert statuses(ask(live, head % (b"/nowhere", 10))) == [404]
        assert statuses(ask(live, head % (b"/tokenize", 10**9))) == [413]


def test_a_connection_may_end_at_any_byte(caplog):
    client = EchoClient(says("hi"))
    whole = request(TEXT, {"prompt": "abc", "stream": True})
    chunks = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n"
        + b'{"prompt": "abc"}\r\n0\r\n\r\n'
    )
    with quiet_server(caplog, client) as live:
        for sent in (whole, chunks):
            for cut in range(len(sent) + 1):
                raw = dial(live)
                raw.sendall(sent[:cut])
                if cut % 2:  # with a reset
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.close()


def test_random_bytes(caplog):
    """Mutations of good requests; whatever is said is HTTP, and no 5xx."""
    dice = random.Random(7)
    good = [request(TEXT, {"prompt": "abc"}), request(CHAT, HELLO), GET, MALFORMED["length and chunks"]]
    with quiet_server(caplog, **FAST) as live:
        for _ in range(300):
            data = bytearray(dice.choice(good))
            for _ in range(dice.randint(1, 6)):
                at = dice.randrange(len(data))
                match dice.randrange(4):
                    case 0:
                        data[at] = dice.randrange(256)
                    case 1:
                        del data[at : at + dice.randint(1, 9)]
                    case 2:
                        data[at:at] = dice.choice([b"\r\n", b"\0", b" ", b"\r\n\r\n", b"A" * 50, data[:20]])
                    case _:
                        data += data[at:]
                data = data or bytearray(b"x")
            with dial(live) as raw:
                with contextlib.suppress(ConnectionError):
                    raw.sendall(bytes(data))
                    raw.shutdown(socket.SHUT_WR)
                said = heard(raw)
            assert said == b"" or said.startswith(b"HTTP/1.1 "), said[:80]
            assert not said[9:12].startswith(b"5"), (bytes(data), said)


def test_limits_that_the_system_cannot_keep_are_lowered(monkeypatch, caplog):
    from radixmill.front.api import connections

    given: list[tuple[int, int]] = []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda which: (100, 1000))
    monkeypatch.setattr(connections.resource, "setrlimit", lambda which, limits: given.append(limits))
    limits = Limits(1, 1, 1, 1.0, 1.0, 1, 1.0, 1.0, connections=4096, per_address=0)
    assert connections.fit_files(limits).connections == 1000 - connections.SPARE_FILES and given == [(1000, 1000)]
    assert "at most" in caplog.text
    assert connections.fit_files(limits._replace(connections=500)).connections == 500


def test_those_that_are_refused_are_limited_too():
    house = House(Limits(1, 1, 1, 1.0, 1.0, 1, 1.0, 1.0, connections=2, per_address=0))
    house.connections = set(range(2 * 2 + PIPELINED))  # type: ignore[arg-type]
    assert not house.crowded
    house.connections.add(-1)  # type: ignore[arg-type]
    assert house.crowded
