"""Bytes that no client library sends, on every route that reads a body: the right 4xx, soon, and nothing reaches an engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.data import shared
from tests.fakes import EchoClient
from tests.front.kit import CHAT, TEXT, Live, call, error, install, make_app, make_front, serving
from tests.front.openapi import FILE
from tests.front.schema_requests import BODIES, drawn, strategy

APP, FRONT = make_front()
JSON = {"content-type": "application/json"}
DEEP, LONG, MANY = 10_000, 10_000_000, 100_000
PATIENCE = 3.0  # how much slower than it should be a machine may be that does other things, too
SOON = 2.0  # seconds of work, of which each takes milliseconds, the 10 MB ones some hundred


def posts() -> list[str]:
    """Every route that reads a body, as the app itself lists them."""
    paths = call(make_app(), "GET", "/openapi.json").json()["paths"]
    return sorted(path for path, entry in paths.items() if "requestBody" in entry.get("post", {}) and "{" not in path)


def fault(path: str, response: Any, status: int) -> dict[str, Any]:
    """The error in its route's shape; Anthropic's has no param."""
    if not path.startswith("/v1/messages"):
        return error(response, status)
    body = response.json()
    assert response.status_code == status and set(body) >= {"type", "error"} and body["type"] == "error"
    return {"param": None, "code": None, **body["error"]}


RAW: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "blanks": (b" \r\n\t", "empty"),
    "half an object": (b'{"model": "echo"', "not valid JSON"),
    "two objects": (b"{}{}", "not valid JSON"),
    "a comment": (b"{} // hello", "not valid JSON"),
    "single quotes": (b"{'model': 'echo'}", "not valid JSON"),
    "a trailing comma": (b'{"model": "echo",}', "not valid JSON"),
    "a list": (b"[{}]", "object"),
    "a number": (b"7", "object"),
    "NaN": (b"NaN", "number that a machine can hold"),
    "a byte order mark": (b'\xef\xbb\xbf{"model": "echo"}', "byte order mark"),
    "UTF-16": ('{"model": "echo"}'.encode("utf-16"), "not valid"),
    "UTF-8 that is none": (b'{"model": "\xff\xfe"}', "not valid UTF-8"),
    "a surrogate as UTF-8": (b'{"model": "\xed\xa0\x80"}', "not valid UTF-8"),
    "an overlong slash": (b'{"model": "\xc0\xaf"}', "not valid UTF-8"),
    "a control character": (b'{"model": "a\x01b"}', "not valid JSON"),
    "a NUL behind it": (b'{"model": "echo"}\0', "not valid JSON"),
    "deep lists": (b'{"model": ' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
    "deep objects": (b'{"nobody_knows": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}", "nested too deeply"),
    "deep and never closed": (b"[" * LONG, "more than 2097152 values"),
    "10 MB of blanks": (b" " * LONG, "empty"),
    "10 MB of digits": (b"1" * LONG, ""),
    "10 MB of text, no JSON": (b'{"model": "' + b"x" * LONG, "not valid JSON"),
}


@pytest.mark.parametrize("name", RAW)
def test_bodies_that_are_no_request(name):
    raw, words = RAW[name]
    install(FRONT, client := EchoClient())
    for path in posts():
        began = time.process_time()
        response = call(APP, "POST", path, content=raw, headers=JSON)
        assert time.process_time() - began < SOON, path
        found = fault(path, response, 400)
        assert words in found["message"] and found["param"] is None, (path, found)
    assert not client.requests and FRONT.session.live == 0


@pytest.mark.parametrize("field", ["model", "nobody_knows"])
def test_large_bodies_are_refused_by_the_limit_alone(field):
    """10 MB is below the default limit, and above a lower one: then nothing of it is parsed."""
    raw = b'{"' + field.encode() + b'": "' + b"x" * LONG + b'"}'
    small = make_app(max_body_bytes=1 << 20)
    for path in posts():
        assert "larger than" in fault(path, call(small, "POST", path, content=raw, headers=JSON), 413)["message"]
        began = time.process_time()
        assert 400 <= call(APP, "POST", path, content=raw, headers=JSON).status_code < 500
        assert time.process_time() - began < SOON


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=a", "json", "*/*"])
def test_content_types_that_are_not_json(kind):
    for path in posts():
        response = call(APP, "POST", path, content=b'{"model": "echo"}', headers={"content-type": kind})
        assert "application/json" in fault(path, response, 400)["message"]


def test_of_equal_names_the_last_counts():
    """RFC 8259 leaves it open; every parser of note takes the last, and so must the checks."""
    install(FRONT, client := EchoClient())
    hi = b'"messages": [{"role": "user", "content": "a", "content": "hi"}]'
    assert call(APP, "POST", CHAT, content=b'{"n": 129, "n": 2, ' + hi + b"}", headers=JSON).status_code == 200
    assert bytes(client.requests[0].prompt[1:3]) == b"hi" and len(client.seeds[0]) == 2
    response = call(APP, "POST", CHAT, content=b'{"n": 2, "n": 129, ' + hi + b"}", headers=JSON)
    assert error(response, 400)["param"] == "n"


PLAIN: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi", "name": "a"}], "stop": ["a"], "user": "u", "seed": 1},
    TEXT: {"prompt": ["a", "b"], "stop": "c", "logit_bias": {"5": 1}, "rid": "r", "temperature": 0.5},
    "/tokenize": {"model": "echo", "prompt": "hi"},
    "/detokenize": {"model": "echo", "tokens": [1, 2]},
    "/abort_request": {"rid": "a"},
}


def places(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, f"{path}[{i}]")
    else:
        yield path, value


def with_literal(value: Any, at: str, literal: str, path: str = "") -> str:
    """JSON of `value`, with `literal` in place of what stands at `at`."""
    if path == at:
        return literal
    if isinstance(value, dict):
        inner = (
            f"{json.dumps(k)}: {with_literal(v, at, literal, f'{path}.{k}' if path else k)}" for k, v in value.items()
        )
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(with_literal(v, at, literal, f"{path}[{i}]") for i, v in enumerate(value)) + "]"
    return json.dumps(value)


LITERALS = {
    "half a pair": r'"a\ud800b"',
    "its other half": r'"\udc00"',
    "a pair the wrong way round": r'"\ude00\ud83d"',
    "NaN": "NaN",
    "an infinity": "-Infinity",
}


@pytest.mark.parametrize("name", LITERALS)
@pytest.mark.parametrize("path", PLAIN)
def test_what_json_cannot_hold_is_refused_where_it_stands(path, name):
    for at, _ in places(PLAIN[path]):
        response = call(APP, "POST", path, content=with_literal(PLAIN[path], at, LITERALS[name]).encode(), headers=JSON)
        assert error(response, 400)["param"] == at


@pytest.mark.parametrize("path", BODIES)
def test_and_so_it_is_in_whatever_the_published_schema_allows(path):
    shared(*FILE)
    for body in drawn(strategy(path, served=True, valid=True), 25, 3):
        for at, _ in places(body):
            raw = with_literal(body, at, LITERALS["half a pair"]).encode()
            param = error(call(APP, "POST", path, content=raw, headers=JSON), 400)["param"]
            assert param == at or "." in at, (param, at, body)


@pytest.mark.parametrize("number", ["1e999", "9" * 400, "-" + "9" * 5000, "1e-999", "0.1e1000000"])
def test_numbers_that_no_machine_holds(number):
    """Refused by name where a number is read; where nobody reads it, it is ignored like the field it stands in."""
    for field in ("temperature", "seed", "n", "max_tokens", "logit_bias.5"):
        body = f'{{"prompt": "a", "{field}": {number}}}'.replace('"logit_bias.5"', '"logit_bias": {"5"') + "}" * (
            "." in field
        )
        response = call(APP, "POST", TEXT, content=body.encode(), headers=JSON)
        if response.status_code != 200 or number != "1e-999":
            assert error(response, 400)["param"] == field
    install(FRONT, EchoClient())
    unknown = f'{{"prompt": "a", "nobody_knows": {number}}}'.encode()
    response = call(APP, "POST", TEXT, content=unknown, headers=JSON)
    assert (response.status_code, response.headers.get("x-radixmill-ignored")) == (200, "nobody_knows")


def test_names_of_fields_are_text_too():
    for path in posts():
        found = fault(path, call(APP, "POST", path, content=rb'{"a\ud800": 1, "model": "echo"}', headers=JSON), 400)
        assert "lone surrogate" in found["message"] and found["param"] is None


def test_many_fields_and_many_items():
    install(FRONT, EchoClient())
    many = {f"f{i}": i for i in range(MANY)}
    began = time.process_time()
    assert call(APP, "POST", TEXT, json={"prompt": "a", **many}).status_code == 200
    for body, param in (
        ({"prompt": ["a"] * MANY}, "prompt"),
        ({"prompt": [1] * MANY}, "prompt"),
        ({"prompt": "a", "stop": ["a"] * MANY}, "stop"),
        ({"prompt": "a", "stop": ["a"] * 129}, "stop"),
        ({"prompt": "a", "logit_bias": many}, "logit_bias"),
        ({"prompt": "a", "metadata": dict.fromkeys(many, "")}, "metadata"),
    ):
        assert error(call(APP, "POST", TEXT, json=body), 400)["param"] == param
    assert time.process_time() - began < 5 * SOON


def lists() -> list[tuple[str, str]]:
    """Every field of a body that may hold a list or an object, with the routes' paths."""
    spec = call(make_app(), "GET", "/openapi.json").json()
    schemas = spec["components"]["schemas"]
    found = []
    for path in posts():
        content = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        body = schemas[content["$ref"].rpartition("/")[2]]
        found += [(path, name) for name, field in body["properties"].items() if '"array"' in json.dumps(field)]
    return found


def test_one_bad_item_in_a_long_list_is_found_soon():
    """Wherever a list may stand, whatever it holds."""
    install(FRONT, EchoClient())
    long = [b"1," * 300_000 + b"1.5", b'"",' * 200_000 + b"1.5", b"[1]," * 150_000 + b"{}", b"{}," * 200_000 + b"1.5"]
    found = lists()
    assert len(found) > 20 and (TEXT, "prompt") in found
    for path, name in found:
        for items in long:
            raw = b'{"model":"echo","%s":[%s]}' % (name.encode(), items)
            began = time.process_time()
            status = call(APP, "POST", path, content=raw, headers=JSON).status_code
            assert time.process_time() - began < 1.0 and 400 <= status < 500, (path, name, items[:9], status)


def test_where_the_fault_of_a_long_list_is_stays_known():
    raw = b'{"prompt": [%s1.5]}' % (b"1," * 500_000)
    assert error(call(APP, "POST", TEXT, content=raw, headers=JSON), 400)["param"] == "prompt[500000]"
    raw = b'{"prompt": [%s1], "n": 0}' % (b"1," * 50_000)
    assert error(call(APP, "POST", TEXT, content=raw, headers=JSON), 400)["param"] == "n"


@pytest.mark.parametrize("items", [b"1,", b'"",', b"[1],", b"{},"])
def test_others_are_answered_beside_a_large_bad_body(items):
    app = make_app()
    raw = b'{"model":"echo","prompt":[%s1.5]}' % (items * ((32 << 20) // len(items) - 100))

    def longest(live: Live) -> float:
        """Of the others' waits, while the body is read."""
        waits = list[float]()
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(httpx.post, live.url + TEXT, content=raw, headers=JSON, trust_env=False, timeout=60)
            while not sent.done():
                began = time.monotonic()
                assert httpx.get(live.url + "/live", trust_env=False, timeout=60).status_code == 200
                waits.append(time.monotonic() - began)
        error(sent.result(), 400)
        return max(waits)

    with serving(app, judge=False) as live:
        found = [longest(live)]
        while found[-1] >= 0.5 * PATIENCE and len(found) < 4:  # the machine itself may have stood still
            found.append(longest(live))
    assert min(found) < 0.5 * PATIENCE, found
