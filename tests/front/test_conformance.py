"""A small run over the published schema, and proof that the run can fail."""

from __future__ import annotations

import asyncio
import itertools
import json

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from tests.data import shared
from tests.fakes import EOS, EchoClient
from tests.front.conformance import Tally, conformance, ignored, judged, main, report
from tests.front.kit import CHAT, HELLO, TEXT, make_app
from tests.front.openapi import FAULTS, FILE, faults, mended, nullable
from tests.front.schema_requests import Wish

CASES = 300
PLAIN = {"model": "echo", **HELLO}


@pytest.fixture(scope="module")
def tally() -> Tally:
    shared(*FILE)
    return conformance(CASES, seed=1)


def test_nothing_breaks_the_published_schema(tally):
    assert not tally.violations, "\n\n".join(tally.violations[:3])


def test_it_is_no_empty_run(tally):
    """Most of what a text server serves is answered, and what is broken is mostly noticed."""
    assert tally.requests > CASES and sum(tally.cases.values()) >= CASES * 0.9
    for path in (CHAT, TEXT):
        answers = {code: n for (where, code), n in tally.statuses.items() if where == path}
        assert answers[200] > 0.3 * sum(answers.values()) < answers[200] + 3 * answers[400]
        assert tally.streams[path] > 10
    assert "0 violations" in report(tally)


def run(app: FastAPI, *wishes: Wish) -> str:
    """The violations of a few requests."""
    shared(*FILE)
    return "\n".join(asyncio.run(judged(app, wishes)).violations)


def spoilt(change) -> FastAPI:
    """An app that answers well, and then something else goes out: `change(status, body) -> (status, body)`."""
    good = make_app(EchoClient())
    bad = FastAPI()

    @bad.middleware("http")
    async def between(request: Request, call_next) -> Response:
        response = await call_next(request)
        body = b"".join([part async for part in response.body_iterator])
        status, body = change(response.status_code, body)
        return Response(body, status, media_type=response.headers["content-type"])

    bad.mount("/", good)
    return bad


CHANGES = {
    "a 500": (
        lambda status, body: (500, b'{"error": {"message": "", "type": "", "param": null, "code": null}}'),
        "500",
    ),
    "no id": (lambda status, body: (status, body.replace(b'"id"', b'"name"')), '"id" is a required property'),
    "a field of nobody's": (lambda status, body: (status, body.replace(b'"seed"', b'"sead"')), "sead is neither"),
    "a foreign finish": (lambda status, body: (status, body.replace(b'"stop"', b'"done"')), "finish_reason"),
    "another text in the stream": (
        lambda status, body: (status, body.replace(b'{"content":"', b'{"content":"x')),
        "the stream folds into",
    ),
    "chunks after the end": (
        lambda status, body: (status, body.replace(b'"finish_reason":null', b'"finish_reason":"stop"')),
        "breaks a rule",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_spoilt_answers_are_seen(name):
    change, words = CHANGES[name]
    wish = Wish("POST", CHAT, PLAIN, "served")
    assert not run(spoilt(lambda status, body: (status, body)), wish)
    assert words in run(spoilt(change), wish)


def error(param: str | None) -> bytes:
    return json.dumps(
        {"error": {"message": "no", "type": "invalid_request_error", "param": param, "code": None}}
    ).encode()


@pytest.mark.parametrize(
    "param, words",
    [
        ("temperature", ""),
        ("top_p", "is blamed"),
        ("messages[1]", "names nothing"),
        ("messages[0].role", "is blamed"),
        ("nonsense", "names nothing"),
        (None, "no param"),
    ],
)
def test_errors_that_blame_another_field_are_seen(param, words):
    broken = Wish("POST", CHAT, {**PLAIN, "top_p": 1, "temperature": 9}, "broken", "temperature")
    answers = itertools.count()
    app = spoilt(lambda status, body: (status, body) if next(answers) < 3 else (400, error(param)))
    found = run(app, Wish("POST", CHAT, PLAIN, "served"), broken)
    assert words in found and bool(found) == bool(words)


def test_choices_that_do_not_depend_on_the_seed_alone_are_seen():
    said = itertools.cycle([b"one", b"two"])
    app = make_app(EchoClient(lambda request, choice: [*next(said), EOS]))
    assert "the stream folds into" in run(app, Wish("POST", CHAT, PLAIN, "served"))


def test_every_mended_fault_is_one():
    """The published schema as it is says no to each of these; mended, it says yes."""
    assert nullable({"enum": ["a"], "nullable": True}) == {"anyOf": [{"enum": ["a"]}, {"type": "null"}]}
    with pytest.raises(AssertionError, match="no fault any more"):
        mended({FAULTS[0][0]: {"properties": {"choices": {"items": {"properties": {"finish_reason": FAULTS[0][2]}}}}}})
    shared(*FILE)
    chunk = {"id": "", "object": "text_completion", "created": 1, "model": "", "usage": None}
    logprobs = {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
    choice = {"index": 0, "text": "a", "finish_reason": None, "logprobs": logprobs}
    assert not faults("CreateCompletionResponse", {**chunk, "choices": [choice]})
    assert faults("CreateCompletionResponse", {**chunk, "choices": [{**choice, "finish_reason": "done"}]})


def test_published_fields_that_are_ignored_are_seen():
    shared(*FILE)
    answer = httpx.Response(
        200, headers={"x-radixmill-ignored": "nobody_knows, tools[0].function.strict, messages[].mood"}
    )
    assert ignored(CHAT, answer) == ["published field tools[0].function.strict is ignored"]


def test_the_page_is_written(tmp_path, capsys):
    shared(*FILE)
    page = tmp_path / "conformance.md"
    assert main(["--cases", "40", "--seed", "4", "--out", str(page)]) == 0
    assert "0 violations" in capsys.readouterr().out and "--cases 40 --seed 4" in page.read_text(encoding="utf-8")
