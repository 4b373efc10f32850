"""What one key's owner can learn of another's: nothing, on any route."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from radixmill.core.config import CacheOptions, Config, ServerOptions
from radixmill.core.request import GenerateRequest
from radixmill.front.api.app import create_app
from radixmill.front.session import Front, Session
from radixmill.front.session.caller import namespace
from radixmill.front.session.session import Policy
from tests.fakes import EOS, ByteText, EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, call, error, make_app, post, says

KEYS = ("ann", "bob")
PROMPT = "The quick brown fox jumps over the lazy dog. " * 4  # longer than a page


class CachingClient(EchoClient):
    """An engine that tells how much of a prompt it has met before, in whole pages, in the same namespace."""

    PAGE = 16

    def submit(self, request: GenerateRequest, seeds: Any) -> Any:
        known: dict[str, list[tuple[int, ...]]] = self.__dict__.setdefault("known", {})
        before = known.setdefault(request.tenant, [])
        self.cached = max((common(old, request.prompt) for old in before), default=0) // self.PAGE * self.PAGE
        before.append(request.prompt)
        return super().submit(request, seeds)


def common(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def app_over(client: EchoClient, *, shared: bool = False, keys: tuple[str, ...] = KEYS, admin: tuple[str, ...] = ()):
    config = Config(
        cache=CacheOptions(shared_prefix_cache=shared), server=ServerOptions(api_key=keys, admin_api_key=admin)
    )
    session = Session(ByteText(), client, ("echo",), policy=Policy(shared_prefixes=shared))
    return create_app(Front(config, client, session))


TURN = [{"role": "user", "content": PROMPT}]
ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    CHAT: ({"messages": TURN}, "usage.prompt_tokens_details.cached_tokens"),
    TEXT: ({"prompt": PROMPT}, "usage.prompt_tokens_details.cached_tokens"),
    "/v1/responses": ({"input": PROMPT}, "usage.input_tokens_details.cached_tokens"),
    "/v1/messages": ({"model": "echo", "max_tokens": 9, "messages": TURN}, "usage.cache_read_input_tokens"),
    "/generate": ({"text": PROMPT}, "meta_info.cached_tokens"),
}


def cached(app: Any, path: str, key: str, **more: Any) -> int:
    body, where = ROUTES[path]
    response = post(app, path, {**body, **more}, headers={"x-api-key": key} if key else {})
    assert response.status_code == 200, response.text
    value = response.json()
    for name in where.split("."):
        value = value[name]
    return value


@pytest.mark.parametrize("path", ROUTES)
def test_cached_tokens_never_tell_of_another_key(path):
    app = app_over(CachingClient(says("Hello")))
    assert cached(app, path, "ann") == 0
    assert cached(app, path, "ann") > 100, "its own are met"
    assert cached(app, path, "bob") == 0
    salted = {"cache_salt": "s"}
    assert cached(app, path, "bob", **salted) == 0 < cached(app, path, "bob", **salted)
    assert cached(app, path, "ann", **salted) == 0, "an equal salt is another one for another key"


@pytest.mark.parametrize("path", ROUTES)
def test_no_salt_spells_another_namespace(path):
    client = CachingClient(says("Hello"))
    app = app_over(client)
    cached(app, path, "ann")
    victim = client.requests[0].tenant
    owner = client.requests[0].account
    for salt in (victim, owner, f"{owner}\0", "\0", f'{owner}",""', f'["{owner}"]'):
        assert cached(app, path, "bob", cache_salt=salt) == 0
    assert victim not in {r.tenant for r in client.requests[1:]}


def test_namespaces_collide_only_where_all_is_equal():
    made = [namespace(*parts) for parts in two_part_names()]
    assert len(set(made)) == len(made)
    assert namespace("", ()) == ""


def two_part_names() -> Iterator[tuple[str, list[str]]]:
    for owner in ("", "a", "ab"):
        for salts in ([], ["a"], ["b"], ["ab"], ["a", "b"], ["a\0b"], ['a","b'], ["b", "a"], ["", "a", "b"]):
            yield owner, salts


def test_two_salts_are_not_one():
    client = CachingClient(says("Hello"))
    app = app_over(client, keys=())
    for salt, extra in (("a\0b", None), ("a", "b"), ("a,b", None), (None, "a\0b")):
        cached(app, "/generate", "", cache_salt=salt, extra_key=extra)
    first, second, third, fourth = (r.tenant for r in client.requests)
    assert len({first, second, third}) == 3 and fourth == first


def test_shared_by_flag_and_without_keys():
    for app in (app_over(CachingClient(says("Hello")), shared=True), app_over(CachingClient(says("Hello")), keys=())):
        assert cached(app, CHAT, "ann") == 0 < cached(app, CHAT, "bob")


def test_the_probe_meets_nobody():
    client = CachingClient(lambda request, choice: [7, EOS])
    app = app_over(client)
    assert call(app, "GET", "/health_generate").status_code == 200
    assert client.requests[0].tenant not in ("", namespace("", ["health"]), namespace("", ["\0health"]))


# --- ids


def test_a_key_aborts_only_its_own_requests():
    async def go() -> None:
        client = EchoClient(says("hi"), gate=asyncio.Event())
        app = app_over(client)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:

            def ask(key: str, path: str, **body: Any) -> asyncio.Task[httpx.Response]:
                return asyncio.ensure_future(http.post(path, json=body, headers={"x-api-key": key}))

            running = ask("ann", TEXT, prompt="x", rid="job-1")
            while not client.live:
                await asyncio.sleep(0)
            for order in ({"rid": "job-1"}, {"rid": "job"}, {"rid": "cmpl-job-1"}, {"abort_all": True}):
                assert (await ask("bob", "/abort_request", **order)).json() == {"aborted": 0}
            assert len(client.live) == 1 and not client.cancelled
            same = ask("bob", TEXT, prompt="y", rid="job-1")  # ids are each key's own
            while len(client.live) < 2:
                await asyncio.sleep(0)
            assert (await ask("ann", "/abort_request", rid="job-1")).json() == {"aborted": 1}
            client.gate.set()
            done, other = await running, await same
            assert done.json()["choices"][0]["finish_reason"] == "abort" or client.cancelled == [0]
            assert other.json()["choices"][0]["text"] == "hi"
            own = ask("ann", TEXT, prompt="x", rid="job-2")
            assert (await own).status_code == 200

    asyncio.run(go())


def test_an_admin_aborts_everyones_requests():
    async def go() -> None:
        client = EchoClient(says("hi"), gate=asyncio.Event())
        app = app_over(client, admin=("root",))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
            tasks = [
                asyncio.ensure_future(http.post(TEXT, json={"prompt": "x", "rid": "job"}, headers={"x-api-key": key}))
                for key in KEYS
            ]
            while len(client.live) < 2:
                await asyncio.sleep(0)
            gone = await http.post("/abort_request", json={"rid": "job"}, headers={"x-api-key": "root"})
            assert gone.json() == {"aborted": 2}
            client.gate.set()
            await asyncio.gather(*tasks)

    asyncio.run(go())


def test_stored_and_background_answers_belong_to_their_key():
    client = EchoClient(says("Hello"))
    app = app_over(client)
    ann, bob = ({"x-api-key": key} for key in KEYS)
    made = post(app, "/v1/responses", {"input": "hi", "rid": "mine"}, headers=ann).json()["id"]
    for method, path in (
        ("GET", f"/v1/responses/{made}"),
        ("DELETE", f"/v1/responses/{made}"),
        ("POST", f"/v1/responses/{made}/cancel"),
        ("GET", f"/v1/responses/{made}/input_items"),
    ):
        error(call(app, method, path, headers=bob), 404)
    follow = post(app, "/v1/responses", {"input": "and?", "previous_response_id": made}, headers=bob)
    assert error(follow, 400)["code"] == "previous_response_not_found"
    assert call(app, "GET", f"/v1/responses/{made}", headers=ann).status_code == 200


def test_an_abort_knows_requests_by_their_own_name_and_by_their_answers() -> None:
    """A client may name its request `resp_a`; and the beginning of every answer's id names none."""

    async def go() -> None:
        client = EchoClient(says("hi"), gate=asyncio.Event())
        app = make_app(client)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:

            async def abort(rid: str) -> tuple[int, int]:
                answer = await http.post("/abort_request", json={"rid": rid})
                return answer.status_code, answer.json().get("aborted", 0)

            sent = [asyncio.ensure_future(http.post(CHAT, json={**HELLO, "rid": id})) for id in ("resp_a", "b")]
            while len(client.live) < 2:
                await asyncio.sleep(0)
            for nobody in ("resp_", "msg_", "cmpl-", "chatcmpl-", ""):
                assert await abort(nobody) == (400, 0)
            assert await abort("resp_a") == (200, 1)
            assert await abort("chatcmpl-b") == (200, 1)
            client.gate.set()
            await asyncio.gather(*sent)

    asyncio.run(asyncio.wait_for(go(), 20))
