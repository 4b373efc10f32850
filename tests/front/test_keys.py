"""Keys: where they come from, what they open, and what of them is ever told."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from radixmill.core.config import ServerOptions
from radixmill.core.errors import CannotStart
from radixmill.front.api.guard import ADMIN_ROUTES, OPEN_ROUTES, is_admin_route
from radixmill.front.api.keys import BadKeys, KeyFile, Keyring, Ring, digest, open_keys
from tests.front.kit import CHAT, HELLO, call, error, make_app, post

ORDERS = ("/flush_cache", "/abort_request")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_second(self) -> None:
        self.now += 1.01


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    put(path, "# ours\n\n  ann\r\nbob # is a part of it\n")
    path.chmod(0o600)
    return path


def put(path: Path, text: str, *, age: float = 60.0) -> None:
    """Write, and let it look as if it was so for a while."""
    path.write_text(text)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))


def opened(path: Path) -> tuple[KeyFile, Clock]:
    clock = Clock()
    file = KeyFile(path, clock)
    file.load()
    return file, clock


def digests(*keys: str) -> tuple[bytes, ...]:
    return tuple(digest(key.encode()) for key in keys)


def test_a_file_has_a_key_a_line(path):
    assert opened(path)[0].digests() == digests("ann", "bob # is a part of it")


def test_a_changed_file_is_read_again_and_no_more_than_once_a_second(path):
    file, clock = opened(path)
    file.digests()
    put(path, "cid\n")
    assert file.digests() == digests("ann", "bob # is a part of it"), "it was looked at just now"
    clock.pass_second()
    assert file.digests() == digests("cid")


def test_a_file_put_in_its_place_by_rename_is_seen(path):
    file, clock = opened(path)
    new = path.with_suffix(".new")
    new.write_text(path.read_text().replace("ann", "eve"))
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))  # same size, same time
    new.rename(path)
    clock.pass_second()
    assert file.digests() == digests("eve", "bob # is a part of it")


def test_a_change_of_equal_size_within_one_tick_of_the_clock_is_seen(path):
    put(path, "one", age=0)
    file, clock = opened(path)
    status = path.stat()
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    clock.pass_second()
    assert file.digests() == digests("two")


@pytest.mark.parametrize(
    "broken", [b"", b"# none\n", b"\xff\xfe", b"a\0b\n", b"x" * ((1 << 20) + 1), None, "folder", "pipe"]
)
def test_a_broken_file_leaves_the_last_good_set_and_is_told_once(path, broken, caplog):
    caplog.set_level("INFO")
    file, clock = opened(path)
    good = file.digests()
    path.unlink()
    if broken == "folder":
        path.mkdir()
    elif broken == "pipe":
        os.mkfifo(path)
    elif broken is not None:
        path.write_bytes(broken)
    for _ in range(3):
        clock.pass_second()
        assert file.digests() == good
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1, caplog.text
    if broken == "folder":
        path.rmdir()
    put(new := path.with_suffix(".new"), "dan")
    new.rename(path)
    clock.pass_second()
    assert file.digests() == digests("dan") and "read 1 keys" in caplog.text


def test_a_file_that_others_can_read_is_warned_of(path, caplog):
    path.chmod(0o644)
    opened(path)
    assert "can be read by others" in caplog.text
    caplog.clear()
    path.chmod(0o600)
    opened(path)
    assert not caplog.text


def test_a_file_from_the_future_is_read_once_and_warned_of_once(path, caplog, monkeypatch):
    put(path, "ann\n", age=-3600.0)
    path.chmod(0o644)
    file, clock = opened(path)
    clock.pass_second()
    assert file.digests() == digests("ann")
    put(path, "bobby\n", age=-7200.0)
    clock.pass_second()
    assert file.digests() == digests("bobby") and caplog.text.count("can be read by others") == 1
    monkeypatch.setattr(KeyFile, "load", None)
    for _ in range(3):
        clock.pass_second()
        assert file.digests() == digests("bobby")


def test_a_server_does_not_start_on_keys_that_are_none(path):
    for options in (
        ServerOptions(api_key=("",)),
        ServerOptions(api_key=("ok", " ")),
        ServerOptions(api_key=("two\nlines",)),
        ServerOptions(api_key_file=str(path.with_suffix(".missing"))),
        ServerOptions(admin_api_key_file=str(path.parent)),
    ):
        with pytest.raises(CannotStart, match="api-key"):
            open_keys(options, {})
    lenient = open_keys(ServerOptions(api_key_file=str(path.with_suffix(".missing"))), {}, lenient=True)
    assert lenient.stranger() is None and lenient.caller(b"ann") is None, "it opens nothing until it can be read"


def test_errors_of_keys_do_not_quote_them(path, caplog):
    path.write_text("good\nsecret\x01key\n")
    with pytest.raises(BadKeys, match="line 2") as bad:
        opened(path)
    assert "secret" not in str(bad.value)


def test_keys_of_the_environment():
    keys = open_keys(ServerOptions(), {"RADIXMILL_API_KEY": "ann", "RADIXMILL_ADMIN_API_KEY": "root"})
    assert keys.stranger() is None and not keys.caller(b"ann").admin and keys.caller(b"root").admin
    assert open_keys(ServerOptions(), {"RADIXMILL_API_KEY": ""}).stranger() is not None


def test_every_key_is_compared(monkeypatch):
    """Where the right one stands is not to be learnt by timing."""
    import hmac

    compared = []
    true_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(1) or true_compare(a, b))
    keys = Keyring(Ring(["a", "b", "c"]), Ring(["d"]))
    for key in (b"a", b"c", b"d", b"nobody"):
        compared.clear()
        keys.caller(key)
        assert len(compared) == 4


def test_a_key_of_a_file_opens_the_app_and_is_gone_with_its_line(path):
    put(path, "ann\nbob\n")
    file, clock = opened(path)
    from radixmill.front.api.app import create_app
    from tests.front.kit import make_front

    _, front = make_front()
    app = create_app(front, Keyring(Ring([], file), Ring([])))
    assert post(app, CHAT, HELLO, headers={"x-api-key": "ann"}).status_code == 200
    assert post(app, CHAT, HELLO).status_code == 401
    put(path, "bob\n")
    clock.pass_second()
    assert post(app, CHAT, HELLO, headers={"x-api-key": "ann"}).status_code == 401
    assert post(app, CHAT, HELLO, headers={"x-api-key": "bob"}).status_code == 200


# --- orders


@pytest.mark.parametrize(
    "options, opens",
    [
        ({}, {None: 200, "ann": 200, "root": 200}),
        ({"api_key": ("ann",)}, {None: 401, "ann": 200, "root": 401}),
        ({"admin_api_key": ("root",)}, {None: 401, "ann": 401, "root": 200}),
        ({"api_key": ("ann",), "admin_api_key": ("root",)}, {None: 401, "ann": 403, "root": 200}),
    ],
)
def test_who_may_give_orders(options, opens):
    app = make_app(**options)
    for key, status in opens.items():
        headers = {"authorization": f"Bearer {key}"} if key else {}
        assert call(app, "POST", "/flush_cache", headers=headers).status_code == status, key
        assert post(app, "/abort_request", {"rid": "x"}, headers=headers).status_code == status, key
        for route, let_in in (("/admin/anything", 404), ("/update_weights_from_disk", 400)):
            response = post(app, route, {}, headers=headers)
            assert error(response, let_in if status == 200 else status)["type"] == "invalid_request_error"


def test_who_may_do_the_rest_where_there_is_an_admin_key():
    app = make_app(admin_api_key=("root",))
    for headers in ({}, {"x-api-key": "wrong"}, {"x-api-key": "root"}):
        assert post(app, CHAT, HELLO, headers=headers).status_code == 200
    app = make_app(admin_api_key=("root",), api_key=("ann",))
    for key, status in {"root": 200, "ann": 200, "wrong": 401}.items():
        assert post(app, CHAT, HELLO, headers={"x-api-key": key}).status_code == status


def test_orders_are_known_by_any_spelling_of_their_path():
    app = make_app(admin_api_key=("root",))
    for path in ("/flush%5Fcache", "/flush_cache?x=1", "/%66lush_cache"):
        assert call(app, "POST", path).status_code == 401
    for path in ("//flush_cache", "/flush_cache/", "/Flush_cache", "/x/../flush_cache"):
        assert call(app, "POST", path).status_code in (401, 404)


def spellings(path: str) -> list[str]:
    """A route's path, and what may pass for it."""
    odd = [path + end for end in ("", "%0A", "%0D", "%0D%0A", "%00", "%7F", "/", "%2F", "?x=1", "%3F", ";x", "%20")]
    odd += ["/" + path, "/." + path, "/x/.." + path, path.upper(), path.swapcase()]
    odd += [
        "/" + path[1:].replace("/", "%2F"),
        "/%2F" + path[1:],
        path.replace("_", "%5F"),
        path[:2] + "%0A" + path[2:],
    ]
    return odd


def test_no_spelling_of_a_route_is_let_in_without_its_key():
    from tests.fakes import EchoClient
    from tests.front.kit import serving

    client = EchoClient()
    app = make_app(client, api_key=("ann",), admin_api_key=("root",))
    orders = 0
    with serving(app, judge=False, per_address=0) as live:
        for path in sorted({route.path for route in app.routes if route.path not in OPEN_ROUTES}):
            order = is_admin_route(path)
            orders += order
            for key in ("", "ann") if order else ("",):
                for odd in spellings(path.replace("{", "").replace("}", "")):
                    for method in ("POST", "GET"):
                        status = said_to(live.port, method, odd, key)
                        assert status in (401, 403, 404, 405), (method, odd, key, status)
    assert orders >= 4 and not client.controls


def said_to(port: int, method: str, target: str, key: str) -> int:
    """The status of an answer to a target that is sent as it is."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nConnection: close\r\n"
        raw.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        return int(raw.recv(1 << 16).split(b" ")[1])


def test_a_web_page_gives_no_orders_to_a_server_without_keys():
    app = make_app()
    for path in ORDERS:
        told = error(call(app, "POST", path, json={"abort_all": True}, headers={"origin": "http://evil.example"}), 403)
        assert "web pages" in told["message"]
    keyed = make_app(api_key=("ann",))
    headers = {"origin": "http://ours.example", "x-api-key": "ann"}
    assert call(keyed, "POST", "/flush_cache", headers=headers).status_code == 200


def test_every_order_is_listed():
    """A new route that changes the server must be thought of here."""
    paths = call(make_app(), "GET", "/openapi.json").json()["paths"]
    harmless = (
        "/v1/", "/generate", "/tokenize", "/detokenize", "/separate_reasoning", "/parse_function_call",
    )  # fmt: skip
    for path, entry in paths.items():
        if set(entry) - {"get"} and not path.startswith(harmless):
            assert path.startswith(ADMIN_ROUTES[0]) or path in ADMIN_ROUTES, path


def test_a_key_may_have_so_many_requests_open():
    import asyncio

    import httpx

    from tests.fakes import EchoClient
    from tests.front.kit import says

    async def go() -> list[int]:
        client = EchoClient(says("hi"), gate=asyncio.Event())
        app = make_app(client, api_key=("ann", "bob"), admin_api_key=("root",), max_requests_per_key=2)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:

            def ask(key: str) -> asyncio.Task[httpx.Response]:
                return asyncio.ensure_future(http.post(CHAT, json=HELLO, headers={"x-api-key": key}))

            held = [ask("ann"), ask("ann")]
            while len(client.live) < 2:
                await asyncio.sleep(0)
            third = await ask("ann")
            assert third.headers["retry-after"] == "1" and error(third, 429)["code"] == "rate_limit_exceeded"
            others = [ask("bob"), ask("root"), ask("root"), ask("root")]
            client.gate.set()
            again = [await each for each in (*held, *others)] + [await ask("ann")]
            return [response.status_code for response in again]

    assert asyncio.run(asyncio.wait_for(go(), 20)) == [200] * 7


def test_an_admin_key_alone_is_warned_of(caplog):
    open_keys(ServerOptions(api_key=("ann",), admin_api_key=("root",)), {})
    assert not caplog.text
    open_keys(ServerOptions(admin_api_key=("root",)), {})
    assert "everything else is open" in caplog.text
