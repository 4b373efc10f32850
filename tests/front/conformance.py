"""Many requests from OpenAI's schema against the app over a scripted engine; every answer judged.

    python -m tests.front.conformance --cases 5000 --seed 0 [--out docs/conformance.md]

What must hold of each answer: no 5xx; what is answered, every chunk, and every error are as the published schema says; an
error names a field of the request, and of a request with one thing broken that thing; no published field is merely
ignored; and what was answered once is answered the same, streamed or not, with the same seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from radixmill.core.request import GenerateRequest
from radixmill.front.dialects import THINKING
from tests.fakes import EOS, ByteText, EchoClient
from tests.front import openapi, responses_kit
from tests.front.kit import make_app, parse_sse
from tests.front.schema_requests import BODIES, SHARES, Wish, broken, drawn, strategy
from tests.front.test_api_fold import essence, fold_chat, fold_text

TEXTS = ("Hello", "", "naïve 😀 text", "stop\n\nhere", "a<b>c <tool_call>", "\n")
JSON = '{"a": "b", "n": 1, "ok": true, "kind": "x"}'
RESPONSES = "/v1/responses"
# Accepted, read by nobody, and said so in the header: what another server encrypted.
TOLD = frozenset({"input[].encrypted_content"})
# A field that is broken may be noticed at a field that is read together with it.
TOGETHER = {
    "stream": {"stream_options", "best_of"},
    "logprobs": {"top_logprobs"},
    "n": {"best_of", "prompt"},
    "best_of": {"n"},
    "prompt": {"n", "max_tokens"},
    "messages": {"max_tokens", "max_completion_tokens", "continue_final_message"},
}


class Script:
    """What a choice says: always the same to the same prompt. Now and then it thinks first; it calls a tool where there
    are tools, always where one must be called; and it says JSON where JSON is demanded."""

    def __init__(self) -> None:
        self.text = ByteText(THINKING)

    def __call__(self, request: GenerateRequest, choice: int) -> list[int]:
        roll = sum(request.prompt) + choice
        said = TEXTS[roll % len(TEXTS)]
        tools = self.text.chats[-1].tools if self.text.chats else ()
        if request.constraint is not None:
            said = JSON
        if tools and (roll % 2 or request.constraint is not None):
            said = said[: roll % 4] + call_of(tools[roll % len(tools)])
        return [*("<think>hm, 😀</think>" * (roll % 3 == 0) + said).encode(), EOS]


def call_of(tool: dict[str, Any]) -> str:
    call = json.dumps({"name": tool["function"]["name"], "arguments": {"a": "é", "n": 1}}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


@dataclass
class Tally:
    """What was tried and what came of it."""

    cases: Counter[tuple[str, str]] = field(default_factory=Counter)  # (route, kind)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)  # answers asked for again as streams
    violations: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.statuses.total()


class Trial:
    """Sends wishes to one server and keeps the tally."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http, self.tally = http, Tally()
        self.answered = False  # the last request that nobody broke

    async def run(self, wishes: Sequence[Wish]) -> None:
        for wish in wishes:
            self.tally.cases[route(wish.path), wish.kind] += 1
            for problem in await self._judged(wish):
                self.tally.violations.append(f"{problem}\n    {wish.kind} {wish.method} {wish.path} {shown(wish.body)}")

    async def _judged(self, wish: Wish) -> list[str]:
        response = await self._send(wish.method, wish.path, wish.body)
        if wish.kind != "broken":
            self.answered = response.status_code == 200
        problems = openapi.judge(wish.method, wish.path.partition("?")[0], response)
        if response.status_code >= 500:
            problems.append(f"{response.status_code}: {response.text[:300]}")
        elif response.status_code >= 400:
            problems += blame(wish, response.json().get("error") or {}, alone=self.answered)
        elif wish.path in FOLDS:
            problems += ignored(wish.path, response) + await self._twins(wish)
            if wish.path == RESPONSES:
                problems += await self._kept(wish.body)
        return problems

    async def _kept(self, body: dict[str, Any]) -> list[str]:
        """A response that is made with this body is kept or not, found, listed and forgotten."""
        made = (await self._send("POST", RESPONSES, {**body, "stream": False, "stream_options": None})).json()
        place, keeps = f"{RESPONSES}/{made['id']}", body.get("store") is not False
        problems = []
        for method, path, status in (
            ("GET", place, 200 if keeps else 404),
            ("GET", f"{place}/input_items", 200 if keeps else 404),
            ("POST", f"{place}/cancel", (200 if body.get("background") else 400) if keeps else 404),
            ("DELETE", place, 200 if keeps else 404),
            ("GET", place, 404),
        ):
            response = await self._send(method, path, b"")
            problems += openapi.judge(method, path, response)
            if response.status_code != status:
                problems.append(f"{method} {path}: {response.status_code}, not {status}: {response.text[:300]}")
            elif status == 200 and path == place and method == "GET" and not body.get("background"):
                problems += [] if response.json() == made else [f"kept is {response.json()}, made was {made}"]
        return problems

    async def _twins(self, wish: Wish) -> list[str]:
        """The same request with one seed, streamed and not."""
        if (wish.body.get("best_of") or 1) > (wish.body.get("n") or 1) or wish.body.get("background"):
            return []
        plain, streamed = twins(wish.path, wish.body)
        whole, stream = await self._send("POST", wish.path, plain), await self._send("POST", wish.path, streamed)
        self.tally.streams[wish.path] += 1
        problems = openapi.judge("POST", wish.path, whole) + openapi.judge("POST", wish.path, stream)
        if (whole.status_code, stream.status_code) != (200, 200):
            return [*problems, f"twins: {whole.status_code} and {stream.status_code}: {stream.text[:200]}"]
        return problems + unequal(wish.path, whole.json(), stream.text)

    async def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        content = {} if method == "GET" else {"content": raw, "headers": {"content-type": "application/json"}}
        response = await self.http.request(method, path, **content)
        self.tally.statuses[route(path), response.status_code] += 1
        return response


def route(path: str) -> str:
    path = re.sub(r"^(/v1/models)/.*", r"\1/{id}", path.partition("?")[0])
    return re.sub(r"^(/v1/responses)/(?!input_tokens$)[^/]*", r"\1/{id}", path)


def shown(body: Any) -> str:
    return repr(body) if len(repr(body)) < 700 else repr(body)[:700] + "…"


def twins(path: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A body with a seed, not streamed and streamed."""
    plain = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    plain["seed"] = plain.get("seed") or 7
    options = {} if path == RESPONSES else {"stream_options": {"include_usage": True}}
    return plain, {**plain, "stream": True, **options}


def unequal(path: str, whole: dict[str, Any], stream: str) -> list[str]:
    """Why a stream does not fold into the whole answer."""
    fold, essence = FOLDS[path]
    try:
        folded = lasting(fold(stream))
    except (AssertionError, KeyError, ValueError) as error:
        return [f"the stream breaks a rule: {type(error).__name__} {error}"]
    wanted = lasting(essence(whole))
    return [] if folded == wanted else [f"the stream folds into {folded}, the answer is {wanted}"]


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """What two calls must agree in: chunks have no metadata, and what the cache holds differs from call to call."""
    kept = {key: value for key, value in answer.items() if key != "metadata"}
    if usage := kept.get("usage"):
        kept["usage"] = {key: value for key, value in usage.items() if not key.endswith("tokens_details")}
    return kept


def fold_response(stream: str) -> dict[str, Any]:
    """The last event's response, which must have what the events before it said."""
    events = responses_kit.parse(stream)
    response = events[-1]["response"]
    assert responses_kit.fold(events) == response["output"]
    return responses_kit.essence(response)  # type: ignore[no-any-return]


FOLDS: dict[str, tuple[Callable[[str], dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "/v1/chat/completions": (lambda stream: fold_chat(parse_sse(stream)), essence),
    "/v1/completions": (lambda stream: fold_text(parse_sse(stream)), essence),
    RESPONSES: (fold_response, responses_kit.essence),
}


# They make the prompt together: where it is too long, it is the prompt that is blamed.
IN_PROMPT = frozenset({"input", "instructions", "messages", "tools", "functions", "prompt", "suffix", "text"})


def ignored(path: str, response: httpx.Response) -> list[str]:
    """Published fields that are accepted and then ignored."""
    names = set(response.headers.get("x-radixmill-ignored", "").split(", "))
    known = openapi.paths(BODIES[path])
    plain = {name: re.sub(r"\[\d+\]", "[]", name) for name in names}
    return [f"published field {name} is ignored" for name in sorted(names) if plain[name] in known - TOLD]


def blame(wish: Wish, error: dict[str, Any], *, alone: bool) -> list[str]:
    """Whether an error's `param` names what is at fault. `alone`: before it was broken, the request was answered."""
    param = error.get("param")
    if not isinstance(wish.body, dict):
        known = param in (None, "model", "response_id") or f"{param}=" in wish.path
        return [] if known else [f"param {param!r} of a request without fields"]
    if param is None:
        return [] if error.get("code") == "invalid_json" else [f"no param: {error.get('message')}"]
    if not names(wish.body, param) and not lacks(wish.path, wish.body, param):
        return [f"param {param!r} names nothing of the request: {error.get('message')}"]
    top = re.split(r"[.\[]", param, maxsplit=1)[0]
    too_long = error.get("code") == "context_length_exceeded" and wish.field in IN_PROMPT and top in IN_PROMPT
    if alone and wish.field and not too_long and top not in {wish.field, *TOGETHER.get(wish.field, ())}:
        return [f"{wish.field} was broken, {param} is blamed: {error.get('message')}"]
    return []


def names(value: Any, path: str, *, inner: bool = False) -> bool:
    """Whether `path` (`messages[0].role`) leads to something in `value`, or to a field that an object in it lacks."""
    if not path:
        return True
    if isinstance(value, list):
        at = re.match(r"\[(\d+)\]\.?", path)
        return bool(at) and int(at[1]) < len(value) and names(value[int(at[1])], path[at.end() :], inner=True)
    if not isinstance(value, dict):
        return False
    keys = [key for key in value if key and path.startswith(key[:60])]
    found = any(names(value[key], path[len(key[:60]) :].removeprefix("."), inner=True) for key in keys)
    return found or (inner and re.fullmatch(r"\w+", path) is not None)


def lacks(path: str, body: dict[str, Any], param: str) -> bool:
    """Whether `param` is a published field that the request does not give."""
    return param not in body and path in BODIES and param in openapi.properties(BODIES[path])


def wishes(cases: int, seed: int) -> list[Wish]:
    """About `cases` requests in all, always the same ones for one seed."""
    rng = random.Random(seed)
    made = [wish for path in BODIES for wish in for_route(path, int(SHARES[path] * cases), rng)]
    return [*made, *models(rng, cases // 50), *strangers(rng, cases // 50)]


def for_route(path: str, cases: int, rng: random.Random) -> Iterator[Wish]:
    """Served ones, each one followed by itself with one thing broken; published ones; and invalid ones."""
    quarter = max(cases // 4, 1)
    at = rng.randrange(2**31)
    served = drawn(strategy(path, served=True, valid=True), quarter, at)
    for body in served:
        yield Wish("POST", path, body, "served")
        changed, blamed = broken(body, rng)
        yield Wish("POST", path, changed, "broken", blamed)
    for body in drawn(strategy(path, served=False, valid=True), quarter, at + 1):
        yield Wish("POST", path, body, "published")
    for body in drawn(strategy(path, served=True, valid=False), quarter, at + 2):
        yield Wish("POST", path, body, "invalid")


NAMES = ("echo", "echo-alias", "default", "gpt-5", "a/b", "..", "%00", "%F0%9F%98%80", "x" * 2000, "echo/", "ECHO")


def models(rng: random.Random, cases: int) -> Iterator[Wish]:
    yield Wish("GET", "/v1/models", None, "plain")
    yield from (Wish("GET", f"/v1/models/{rng.choice(NAMES)}", None, "plain") for _ in range(cases))


def strangers(rng: random.Random, cases: int) -> Iterator[Wish]:
    """Responses that were never made, and queries that mean nothing."""
    queries = ("", "?stream=true", "?stream=maybe", "?limit=0", "?limit=x", "?limit=101", "?order=up", "?after=%00")
    for _ in range(cases):
        id = rng.choice(("resp_0", "resp_" + "x" * 500, "chatcmpl-1", "%F0%9F%98%80", "a%2Fb", "%20"))
        method, tail = rng.choice((("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")))
        yield Wish(method, f"{RESPONSES}/{id}{tail}{rng.choice(queries)}", b"", "plain")


async def judged(app: FastAPI, wanted: Sequence[Wish]) -> Tally:
    """The tally of requests to an app in memory."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as http:
        return await tried(http, wanted)


async def tried(http: httpx.AsyncClient, wanted: Sequence[Wish]) -> Tally:
    trial = Trial(http)
    await trial.run(wanted)
    return trial.tally


def conformance(cases: int, seed: int) -> Tally:
    """The whole run, over an engine that says a few short things."""
    script = Script()
    app = make_app(EchoClient(script, cuts=(1, 3, 2)), text=script.text)
    return asyncio.run(judged(app, list(wishes(cases, seed))))


def report(tally: Tally) -> str:
    """The tally as a table."""
    lines = ["| route | cases | streamed again | answers |", "|---|---|---|---|"]
    for name in sorted({name for name, _ in tally.cases}):
        kinds = {kind: n for (where, kind), n in sorted(tally.cases.items()) if where == name}
        codes = {code: n for (where, code), n in sorted(tally.statuses.items()) if where == name}
        lines.append(
            f"| `{name}` | {sum(kinds.values()):,} ({_listed(kinds)}) | {tally.streams[name]:,} | {_listed(codes)} |"
        )
    return "\n".join([*lines, "", f"{tally.requests:,} requests, {len(tally.violations)} violations."])


def _listed(counts: dict[Any, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


PAGE = """# Conformance

Requests made from OpenAI's published schema, sent to the app over a scripted engine, and every answer judged:
`python -m tests.front.conformance --cases {options.cases} --seed {options.seed} --out docs/conformance.md` wrote this page
(`make conformance` runs the same). The schema is no part of this repository; without it the run says so and stops.

- **served**: valid, without what a text server refuses by name; **published**: valid, anything, with fields that nobody
  knows; **invalid**: made to break the schema; **broken**: a served one with one thing changed at some depth; **plain**:
  no body.
- No answer may be a 5xx. Answers, chunks, events and errors must be as the schema says, besides the additions that
  [api.md](api.md) lists. An error's `param` must name a field of the request; of a broken request whose original was
  answered, that field or one that is read with it. No published field, at any depth, may be accepted and ignored.
- What was answered is asked again with a seed, streamed and not: the stream must fold into the answer. A response must be
  found, listed, cancelled and deleted as it says.
- `tests/e2e/test_conformance.py` sends 200 such requests to the embedded model.

{table}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    parser.add_argument("--show", type=int, default=20, help="violations to print")
    options = parser.parse_args(arguments)
    if not openapi.present():
        sys.exit("the published schema is not here: shared/data/openai/openapi.yaml, beside this repository")
    began = time.perf_counter()
    tally = conformance(options.cases, options.seed)
    print("\n\n".join(tally.violations[: options.show]))
    print(report(tally), f"{time.perf_counter() - began:.0f} s.")
    if options.out:
        options.out.write_text(PAGE.format(options=options, table=report(tally)), encoding="utf-8")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
