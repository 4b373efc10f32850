"""What is logged of clients: nothing that they say, unless it was asked for; and never a line that they wrote."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from radixmill.cli import build
from radixmill.core.errors import CannotStart
from radixmill.front.session import Session
from radixmill.front.session.session import Policy
from radixmill.observe.log import Discreet, escaped
from tests.fakes import ByteText, EchoClient
from tests.front.kit import CHAT, TEXT, call, make_app, post, says, serving

CANARY, KEY, WRONG = "canary-in-a-coal-mine", "sk-canary-key", "sk-canary-wrong"
ROUTES = {
    CHAT: {"messages": [{"role": "user", "content": CANARY, "name": CANARY}]},
    TEXT: {"prompt": CANARY},
    "/v1/responses": {"input": CANARY},
    "/v1/messages": {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": CANARY}]},
    "/generate": {"text": CANARY},
    "/tokenize": {"prompt": CANARY},
    "/separate_reasoning": {"text": CANARY},
}


class Log:
    """All that is logged, as a server writes it."""

    def __init__(self, quotes: bool = False) -> None:
        self.sink = io.StringIO()
        self.handler = logging.StreamHandler(self.sink)
        self.handler.addFilter(
            lambda record: record.name.split(".")[0] not in ("httpx", "httpcore")
        )  # the client's own
        self.handler.setFormatter(Discreet("%(asctime)s front %(message)s", "%H:%M:%S", quotes=quotes))

    @property
    def text(self) -> str:
        return self.sink.getvalue()


@pytest.fixture
def log() -> Iterator[Log]:
    yield from logging_to(Log())


@pytest.fixture
def open_log() -> Iterator[Log]:
    yield from logging_to(Log(quotes=True))


def logging_to(log: Log) -> Iterator[Log]:
    root, ours = logging.getLogger(), logging.getLogger("radixmill")
    before = root.level, ours.level
    root.addHandler(log.handler)
    root.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    yield log
    root.removeHandler(log.handler)
    root.setLevel(before[0])
    ours.setLevel(before[1])


def bodies(body: dict) -> Iterator[bytes]:
    """A request, and ways in which it is wrong."""
    yield json.dumps(body).encode()
    yield json.dumps({**body, "stream": True}).encode()
    yield json.dumps(body).encode()[:-1]
    yield json.dumps([body]).encode()
    yield json.dumps({**body, "model": CANARY, "temperature": CANARY, "n": CANARY, CANARY: 1}).encode()
    yield json.dumps(
        {**body, "response_format": {"type": CANARY}, "stop": [CANARY] * 99, "seed": "\n" + CANARY}
    ).encode()
    yield json.dumps({**body, "rid": f"{CANARY}\nforged"}).encode()
    yield json.dumps({name: {"a": value} for name, value in body.items()}).encode()


def send_all(app) -> set[int]:
    seen = set()
    for key in (KEY, WRONG):
        headers = {"x-api-key": key, "content-type": "application/json"}
        for path, body in ROUTES.items():
            for raw in bodies(body):
                seen.add(call(app, "POST", path, content=raw, headers=headers).status_code)
        seen.add(call(app, "GET", f"/v1/models/{CANARY}", headers=headers).status_code)
        seen.add(call(app, "GET", f"/v1/responses/{CANARY}", headers=headers).status_code)
    return seen


LINE = "\nforged line"


class Broken(Session):
    """Whose bugs quote what they stumble over."""

    async def start(self, ask, caller=None):
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise RuntimeError(f"no idea what to do with {CANARY}{LINE}") from error

    async def tokenise(self, prompts, field, owner=""):
        raise ValueError(CANARY)


@pytest.mark.parametrize("flags", [{}, {"log_requests": True}])
def test_no_error_puts_a_prompt_or_a_key_into_the_log(log, flags):
    app = make_app(EchoClient(says(CANARY)), api_key=(KEY,), **flags)
    assert {200, 400, 401, 404} <= send_all(app)
    quiet(log)
    assert ("request " in log.text) == bool(flags)


def test_no_bug_does_either(log):
    client = EchoClient(says(CANARY))
    app = make_app(client, api_key=(KEY,))
    install_broken(app, client)
    assert 500 in send_all(app)
    quiet(log)
    assert (
        "Traceback (most recent call last)" in log.text and "builtins.RuntimeError: its message is withheld" in log.text
    )
    assert "direct cause" in log.text and "in start" in log.text, "where it happened is told"


def install_broken(app, client) -> None:
    for route in app.routes:
        for cell in getattr(route.endpoint, "__closure__", None) or () if hasattr(route, "endpoint") else ():
            front = getattr(cell.cell_contents, "front", None)
            if front is not None:
                front.session = Broken(ByteText(), client, ("echo",))


def test_failures_of_the_engine_do_not(log):
    for broken in ("failed", "grammar"):
        client = EchoClient(lambda request, choice: CANARY.encode(), broken=broken)
        app = make_app(client)
        for path, body in ROUTES.items():
            for stream in (False, True):
                post(app, path, {**body, "stream": stream}) if path not in (
                    "/tokenize",
                    "/separate_reasoning",
                ) else None
    quiet(log)


def test_raw_bytes_do_not(log):
    with serving(make_app(api_key=(KEY,))) as live:
        for sent in (
            f"GET /{CANARY} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nBad Header: {CANARY}\r\n\r\n",
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: 99\r\n\r\n{CANARY}",
            f"{CANARY}\r\n\r\n",
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: {CANARY}\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", live.port), timeout=20) as raw, suppress(ConnectionError):
                raw.sendall(sent.encode())
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(4096):
                    pass
    quiet(log)


def test_forgotten_tasks_do_not(log):
    async def go() -> None:
        async def fail() -> None:
            raise RuntimeError(CANARY)

        asyncio.ensure_future(fail())  # noqa: RUF006
        await asyncio.sleep(0.01)

    asyncio.run(go())
    import gc

    gc.collect()
    quiet(log)
    assert "never retrieved" in log.text


def quiet(log: Log) -> None:
    for word in (CANARY, "canary", "forged"):
        assert word not in log.text, "\n".join(line for line in log.text.splitlines() if word in line)[:2000]


def test_what_was_said_is_logged_where_that_is_wanted(log):
    client = EchoClient(says("the answer"))
    session = Session(ByteText(), client, ("echo",), policy=Policy(log_prompts=True))
    app = make_app(client, log_requests=True)
    for route in app.routes:
        for cell in getattr(getattr(route, "endpoint", None), "__closure__", None) or ():
            if hasattr(cell.cell_contents, "front"):
                cell.cell_contents.front.session = session
    post(app, TEXT, {"prompt": "the question\nx", "rid": "job-1"})
    lines = log.text.splitlines()
    assert any("request job-1 asks [0]: the question\\nx" in line for line in lines)
    assert any("request job-1 hears [0]: the answer" in line for line in lines)


def test_a_line_for_each_request(log):
    app = make_app(EchoClient(says("hello")), api_key=(KEY,), log_requests=True)
    post(app, TEXT, {"prompt": "abc", "rid": "job-1"}, headers={"x-api-key": KEY})
    post(app, TEXT, {"prompt": "abc"}, headers={"x-request-id": "job-2"})
    call(app, "GET", "/live")
    mine, strange = (line for line in log.text.splitlines() if "request " in line)
    assert "request job-1: POST /v1/completions, key " in mine and "status 200, tokens 3 + 6" in mine
    assert "request job-2: POST an unknown path, key none, status 401, tokens 0 + 0" in strange


def test_nobody_forges_a_line(log):
    logging.getLogger("radixmill.front").info(
        "request %s", "a\n12:00:00 front all is well\r\x1b[2J\u2028\u202e\ud800\0"
    )
    assert len(log.text.splitlines()) == 1 and "\x1b" not in log.text
    assert escaped("plain – ünïcode 語") == "plain – ünïcode 語"


def test_messages_of_exceptions_are_quoted_where_that_is_wanted(open_log):
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("radixmill.front").exception("oh")
    assert f"ValueError: {CANARY}" in open_log.text


def test_groups_and_what_is_no_secret_are_told(log):
    try:
        raise ExceptionGroup("two", [FileNotFoundError(2, "No such file", "/tmp/x"), ValueError(CANARY)])
    except ExceptionGroup:
        logging.getLogger("radixmill.front").exception("oh")
    assert "No such file: '/tmp/x'" in log.text and "builtins.ValueError" in log.text
    quiet(log)


def test_a_secret_of_the_wrong_type_is_not_quoted():
    for name in ("api_key", "admin_api_key"):
        with pytest.raises(CannotStart, match=f"server.{name} must be") as error:
            build({"server": {name: 4711}})
        assert "4711" not in str(error.value)
