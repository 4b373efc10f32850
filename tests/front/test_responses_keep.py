"""Kept responses: read, forgotten, cancelled, made in the background, streamed again; and whose they are."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from tests.fakes import ByteText, EchoClient
from tests.front.kit import call, error, make_app, post, says
from tests.front.responses_kit import HI, PATH, conforms, essence, fold, get, parse, whole

SLOW = {"pause": 0.01}


def session(app, go):
    """Several requests on one loop, as a background task needs."""

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as http:
            return await go(http)

    return asyncio.run(run())


async def ended(http, id: str) -> dict:
    async with asyncio.timeout(60):
        while (response := (await http.get(f"{PATH}/{id}")).json())["status"] in ("queued", "in_progress"):
            await asyncio.sleep(0.005)
    return response


def test_a_response_is_read_again_as_it_was():
    app = make_app()
    made = whole(app, HI)
    assert get(app, f"{PATH}/{made['id']}") == made
    streamed = parse(post(app, PATH, {**HI, "stream": True}).text)[-1]["response"]
    assert get(app, f"{PATH}/{streamed['id']}") == streamed


def test_a_response_is_forgotten():
    app = make_app()
    id = whole(app, HI)["id"]
    gone = call(app, "DELETE", f"{PATH}/{id}").json()
    assert gone == {"id": id, "object": "response", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        fault = error(call(app, method, f"{PATH}/{id}{path}"), 404)
        assert fault["param"] == "response_id" and id in fault["message"]
    assert error(post(app, PATH, {**HI, "previous_response_id": id}), 400)["param"] == "previous_response_id"


def test_what_is_not_to_be_stored_is_not():
    app = make_app()
    error(call(app, "GET", f"{PATH}/{whole(app, {**HI, 'store': False})['id']}"), 404)


def test_the_store_has_bounds():
    app = make_app(store_entries=2)
    ids = [whole(app, HI)["id"] for _ in range(3)]
    assert [call(app, "GET", f"{PATH}/{id}").status_code for id in ids] == [404, 200, 200]
    app = make_app(store_bytes=10)
    error(call(app, "GET", f"{PATH}/{whole(app, HI)['id']}"), 404)
    app = make_app(store_ttl=0.0)
    error(call(app, "GET", f"{PATH}/{whole(app, HI)['id']}"), 404)


def test_a_key_never_sees_another_keys_responses():
    app = make_app(api_key=("ann", "bob"))
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("ann", "bob"))
    made = whole(app, HI, headers=ann)
    id, item = made["id"], made["output"][0]["id"]
    assert call(app, "GET", f"{PATH}/{id}", headers={"x-api-key": "ann"}).json() == made
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        error(call(app, method, f"{PATH}/{id}{path}", headers=bob), 404)
    error(post(app, PATH, {**HI, "previous_response_id": id}, headers=bob), 400)
    error(post(app, PATH, {"input": [{"type": "item_reference", "id": item}]}, headers=bob), 400)
    assert call(app, "GET", f"{PATH}/{id}", headers=ann).status_code == 200


def test_a_failed_response_is_kept_if_it_was_streamed():
    app = make_app(EchoClient(says("abc", end=()), broken="failed"))
    failed = parse(post(app, PATH, {**HI, "stream": True}).text)[-1]["response"]
    assert get(app, f"{PATH}/{failed['id']}") == failed
    assert error(post(app, PATH, HI), 500)["code"] == "internal_error"


def test_in_the_background():
    app = make_app(EchoClient(says("abc"), **SLOW))

    async def go(http):
        first = (await http.post(PATH, json={**HI, "background": True})).json()
        conforms("Response", first)
        assert first["status"] == "queued" and first["background"] and first["output"] == []
        early = await http.post(PATH, json={**HI, "previous_response_id": first["id"]})
        assert error(early, 400)["param"] == "previous_response_id"
        last = await ended(http, first["id"])
        conforms("Response", last)
        assert last["status"] == "completed" and last["output"][0]["content"][0]["text"] == "abc"
        late = (await http.post(f"{PATH}/{first['id']}/cancel")).json()
        assert late == last, "there is nothing left to cancel"
        assert (await http.post(PATH, json={**HI, "previous_response_id": first["id"]})).status_code == 200

    session(app, go)


def test_a_background_response_is_cancelled():
    client = EchoClient(says("x" * 400), **SLOW)
    app = make_app(client)

    async def go(http):
        id = (await http.post(PATH, json={**HI, "background": True})).json()["id"]
        while not (await http.get(f"{PATH}/{id}")).json()["output"]:
            await asyncio.sleep(0.01)
        cancelled = (await http.post(f"{PATH}/{id}/cancel")).json()
        conforms("Response", cancelled)
        assert cancelled["status"] == "cancelled" and 0 < len(cancelled["output"][0]["content"][0]["text"]) < 400
        assert (await http.get(f"{PATH}/{id}")).json() == cancelled

    session(app, go)
    assert client.cancelled == [0] and not client.live


class Unread(ByteText):
    """Reads a prompt for as long as the test wants."""

    def __init__(self):
        super().__init__()
        self.read, self.reading = threading.Event(), threading.Event()

    def encode_chat(self, prompt):
        self.reading.set()
        assert self.read.wait(20)
        return [65]


LONG = {"input": "x" * 50_000, "background": True, "max_output_tokens": 20}


@pytest.mark.parametrize(
    "order, body",
    [(f"{PATH}/resp_a/cancel", {}), ("/abort_request", {"rid": "a"}), ("/abort_request", {"rid": "resp_a"})],
)
@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_a_background_response_is_cancelled_while_its_prompt_is_read(order, body, more):
    """At once, and the engine never hears of it."""
    client, text = EchoClient(), Unread()
    app = make_app(client, text=text)

    async def go(http):
        made = asyncio.ensure_future(http.post(PATH, json={**LONG, "rid": "a", **more}))
        other = asyncio.ensure_future(http.post(PATH, json={**LONG, "rid": "ab"}))
        await asyncio.to_thread(text.reading.wait, 20)
        stopped = await asyncio.wait_for(http.post(order, json=body), 20)
        assert stopped.status_code == 200
        assert (await asyncio.wait_for(made, 20)).status_code == 200
        cancelled = await ended(http, "resp_a")
        conforms("Response", cancelled)
        assert cancelled["status"] == "cancelled" and cancelled["output"] == [] and not client.requests
        if order.endswith("cancel"):
            assert stopped.json() == cancelled and not other.done(), "of another id, however alike"
        text.read.set()
        assert (await other).status_code == 200
        await ended(http, "resp_ab") if order.endswith("cancel") else None
        state = (await http.get("/server_info")).json()["internal_states"][0]
        assert (state["live_requests"], state["live_sequences"], state["queued_tokens"]) == (0, 0, 0)

    session(app, go)


def test_a_background_response_is_deleted_while_its_prompt_is_read():
    client, text = EchoClient(), Unread()
    app = make_app(client, text=text)

    async def go(http):
        made = asyncio.ensure_future(http.post(PATH, json={**LONG, "rid": "a"}))
        await asyncio.to_thread(text.reading.wait, 20)
        assert (await http.delete(f"{PATH}/resp_a")).json()["deleted"]
        await made
        text.read.set()
        assert (await http.get(f"{PATH}/resp_a")).status_code == 404 and not client.requests

    session(app, go)


TALK = [{"role": "user", "content": text * 50_000} for text in "abc"]
FITTED = {"input": TALK, "truncation": "auto", "background": True, "max_output_tokens": 20, "rid": "a"}


@pytest.mark.parametrize("way", ["cancel", "delete"])
def test_a_background_response_is_stopped_while_its_prompt_is_fitted(way):
    """Nobody waits for that, and the engine never hears of it."""
    client, text = EchoClient(), Unread()
    app = make_app(client, text=text)

    async def go(http):
        made = asyncio.ensure_future(http.post(PATH, json=FITTED))
        await asyncio.to_thread(text.reading.wait, 20)
        again = await http.post(PATH, json={**FITTED, "rid": "resp_a"})
        assert error(again, 400)["param"] == "rid", "the same response"
        one = f"{PATH}/resp_a"
        stopped = await (http.delete(one) if way == "delete" else http.post(f"{one}/cancel"))
        assert stopped.status_code == 200 and (await made).status_code == 200
        if way == "cancel":
            assert stopped.json()["status"] == "cancelled"
            conforms("Response", (await http.get(one)).json())
        else:
            assert (await http.get(one)).status_code == 404
        text.read.set()
        await asyncio.sleep(0.05)
        assert not client.requests
        state = (await http.get("/server_info")).json()["internal_states"][0]
        assert (state["live_requests"], state["live_sequences"], state["queued_tokens"]) == (0, 0, 0)

    session(app, go)


@pytest.mark.parametrize("first, second", [("a", "resp_a"), ("resp_a", "a")])
def test_a_response_has_its_id_alone(first, second):
    """A request may be named as its response is, but not while another is being made under that name."""
    app = make_app(EchoClient(says("x" * 400), **SLOW))

    async def go(http):
        made = (await http.post(PATH, json={**HI, "background": True, "rid": first})).json()
        assert made["id"] == "resp_a"
        for more in ({}, {"background": True}):
            assert error(await http.post(PATH, json={**HI, **more, "rid": second}), 400)["param"] == "rid"
        other = await http.post(PATH, json={**HI, "background": True, "rid": "resp_resp_a"})
        assert other.json()["id"] == "resp_resp_a"
        assert (await http.post(f"{PATH}/resp_a/cancel")).json()["status"] == "cancelled"
        assert (await http.get(f"{PATH}/resp_resp_a")).json()["status"] == "in_progress"
        await http.post(f"{PATH}/resp_resp_a/cancel")

    session(app, go)


def test_only_background_responses_are_cancelled():
    app = make_app()
    assert error(call(app, "POST", f"{PATH}/{whole(app, HI)['id']}/cancel"), 400)["param"] == "response_id"


def test_a_deleted_background_response_stops_and_stays_deleted():
    client = EchoClient(says("x" * 400), pause=1.0)

    async def go(http):
        id = (await http.post(PATH, json={**HI, "background": True})).json()["id"]
        async with asyncio.timeout(60):
            while not client.live:
                await asyncio.sleep(0.005)
        assert (await http.delete(f"{PATH}/{id}")).json()["deleted"]
        async with asyncio.timeout(60):
            while client.live:
                await asyncio.sleep(0.005)
        assert client.cancelled == [0]
        await asyncio.sleep(0.05)
        assert (await http.get(f"{PATH}/{id}")).status_code == 404

    session(make_app(client), go)


def test_a_background_failure_is_found_in_the_response():
    app = make_app(EchoClient(says("abc", end=()), broken="failed"))

    async def go(http):
        id = (await http.post(PATH, json={**HI, "background": True})).json()["id"]
        failed = await ended(http, id)
        conforms("Response", failed)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")

    session(app, go)


def test_a_background_stream_can_be_heard_again_from_any_place():
    app = make_app(EchoClient(says("abcdef"), **SLOW))

    async def go(http):
        live = parse((await http.post(PATH, json={**HI, "background": True, "stream": True})).text)
        id = live[-1]["response"]["id"]
        assert [event["type"] for event in live[:3]] == ["response.created", "response.queued", "response.in_progress"]
        for after in (None, 0, 5, len(live) - 1, 10**6):
            query = {"stream": "true", **({} if after is None else {"starting_after": after})}
            again = (await http.get(f"{PATH}/{id}", params=query)).text
            start = 0 if after is None else after + 1
            assert parse(again, start) == live[start:]
        assert (await http.get(f"{PATH}/{id}")).json() == live[-1]["response"]

    session(app, go)


def test_a_listener_who_comes_late_hears_all_of_it():
    app = make_app(EchoClient(says("abcdef"), pause=0.02))

    async def go(http):
        make = asyncio.create_task(http.post(PATH, json={**HI, "background": True, "stream": True, "rid": "r"}))
        while (again := await http.get(f"{PATH}/resp_r", params={"stream": "true"})).status_code == 404:
            await asyncio.sleep(0.01)
        assert parse(again.text) == parse((await make).text)

    session(app, go)


@pytest.mark.parametrize("body", [{}, {"background": True}])
def test_other_responses_are_not_streamed_again(body):
    app = make_app()

    async def go(http):
        id = (await http.post(PATH, json={**HI, **body})).json()["id"]
        assert error(await http.get(f"{PATH}/{id}", params={"stream": "true"}), 400)["param"] == "stream"
        for query, param in (({"stream": "maybe"}, "stream"),):
            assert error(await http.get(f"{PATH}/{id}", params=query), 400)["param"] == param

    session(app, go)


def test_compaction_is_not_offered():
    assert "truncation" in error(call(make_app(), "POST", f"{PATH}/compact", json={"model": "echo"}), 404)["message"]


def test_background_and_foreground_say_the_same():
    app = make_app(EchoClient(says("abc")))

    async def go(http):
        live = (await http.post(PATH, json={**HI, "background": True, "stream": True, "seed": 1})).text
        plain = (await http.post(PATH, json={**HI, "seed": 1})).json()
        output = fold([event for event in parse(live) if event["type"] != "response.queued"])
        assert essence(output) == essence(plain["output"])

    session(app, go)
