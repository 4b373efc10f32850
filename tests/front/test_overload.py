"""What a front takes and what it refuses when there is too much: 429 with an honest Retry-After, 408, and nothing held."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import Struct

from radixmill.core.config import ServerOptions
from radixmill.core.errors import BadRequest, NotReady, Overloaded, RequestTimeout
from radixmill.core.request import Constraint
from radixmill.front.api.app import BODIES
from radixmill.front.session import Ask, Caller, Session, TextPrompt, gather
from radixmill.front.session.door import LATELY, LATEST, SHARE, Bounds, Door
from radixmill.front.session.native import GenerateBody, to_items
from radixmill.front.session.native.items import start as start_batch
from radixmill.front.session.open import limits_of
from radixmill.front.session.session import Policy
from tests.fakes import ByteText, EchoClient, Turnstile
from tests.front.kit import CHAT, HELLO, TEXT, call, error, make_app, post, says, serving, until


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def door(clock: Clock | None = None, **limits: Any) -> Door:
    return Door(Bounds(**limits), clock or Clock())


# --- the door


def test_retry_after_is_what_was_measured() -> None:
    """Two requests a second leave a full house: room for the next is half a second away, for tokens as many as must go."""
    clock = Clock()
    full = door(clock, requests=10, tokens=1000)
    places = [full.enter() for _ in range(10)]
    for number, place in enumerate(places):
        place.weigh("a", [100 if number else 50])
    for _ in range(60):
        clock.now += 0.5
        places.pop(0).leave("a")
        places.append(full.enter())
        places[-1].weigh("a", [100])
    assert full.requests.seconds_until(1) == 1.0  # half a second, but no less than one
    assert full.tokens.seconds_until(100) == pytest.approx(1.0, abs=0.05)
    assert full.tokens.seconds_until(900) == pytest.approx(4.5, rel=0.05), "200 tokens a second"
    with pytest.raises(Overloaded) as refused:
        full.weigh(900, "")
    assert refused.value.retry_after == pytest.approx(4.5, rel=0.05)


def test_before_anything_is_measured_it_is_a_second_and_never_more_than_a_minute() -> None:
    clock = Clock()
    full = door(clock, requests=2, tokens=10)
    first, second = full.enter(), full.enter()
    clock.now += 500
    assert full.requests.seconds_until(1) == 1.0
    first.leave("a")
    third = full.enter()
    clock.now += 5000  # nothing has left for long
    assert full.requests.seconds_until(1) == LATEST
    second.leave("b")
    third.leave("c")
    assert not full.requests.held and not full.tokens.held


def test_idle_time_says_nothing_about_the_rate() -> None:
    clock = Clock()
    quick = door(clock, requests=1)
    for _ in range(5):
        place = quick.enter()
        clock.now += 3.0
        place.leave("a")
        clock.now += 1000.0
    quick.enter()
    assert quick.requests.seconds_until(1) == pytest.approx(3.0, rel=0.2)


def test_whoever_waits_alone_is_never_too_much() -> None:
    small = door(tokens=10)
    first = small.enter()
    first.weigh("a", [1000])
    with pytest.raises(Overloaded):
        small.enter().weigh("b", [1])
    first.begun("a", 0)
    small.enter().weigh("c", [1000])


def test_a_prompt_counts_until_its_answer_begins() -> None:
    some = door(tokens=100)
    place = some.enter()
    place.weigh("a", [30, 20])
    assert some.tokens.held == 50
    place.begun("a", 1)
    place.begun("a", 1)
    assert some.tokens.held == 30
    place.leave("a")
    place.leave("a")
    assert (some.tokens.held, some.requests.held) == (0, 0)


def test_one_key_leaves_room_for_others() -> None:
    """However much one asks for, another who is about finds room; without keys all of it is everybody's."""
    keyed = door(requests=90, tokens=9000)
    keyed.enter("b").leave("b")
    taken = 0
    while keyed.requests.fits(1, "a"):
        keyed.enter("a").weigh(str(taken), [100] if keyed.tokens.fits(100, "a") else [])
        taken += 1
    assert 90 * 0.8 <= taken < 90 * SHARE / (SHARE + 1) + 2
    assert keyed.tokens.held <= 9000 * SHARE / (SHARE + 1) + 100
    place = keyed.enter("b")
    place.weigh("b", [100])
    open_to_all = door(requests=90)
    for _ in range(90):
        open_to_all.enter()
    with pytest.raises(Overloaded):
        open_to_all.enter()
    lone = door(requests=1)
    lone.enter("a")


def test_one_key_alone_may_have_everything() -> None:
    clock = Clock()
    keyed = door(clock, requests=90)
    keyed.enter("b").leave("b")
    clock.now += LATELY + 1
    places = [keyed.enter("a") for _ in range(90)]
    with pytest.raises(Overloaded):
        keyed.check("b")
    for _ in range(20):
        places.pop().leave("a")
    keyed.enter("b")
    with pytest.raises(Overloaded):
        while True:
            places.append(keyed.enter("a"))
    assert 75 <= len(places) <= 80, "now that there is another"


def test_wide_requests_are_counted_by_their_sequences() -> None:
    some = door(sequences=1000)
    first = some.enter()
    first.count("a", 2048)  # alone, it is never too much
    with pytest.raises(Overloaded) as refused:
        some.enter().count("b", 1)
    assert "sequences" in refused.value.message and refused.value.retry_after
    first.leave("a")
    assert some.sequences.held == 0
    second = some.enter()
    second.count("c", 900)
    with pytest.raises(Overloaded):
        some.enter().count("d", 101)
    some.enter().count("e", 100)
    assert some.stats()["live_sequences"] == 1000 and some.stats()["rejected_sequences"] == 2


def test_too_many_sequences_cost_nothing() -> None:
    """They are refused before a prompt is tokenised, and nothing is held for them."""

    async def go() -> None:
        client, text = EchoClient(gate=asyncio.Event()), Counting()
        s = Session(text, client, ("echo",), limits=Bounds(sequences=300))
        wide = {"n": 128, "width": 128, "prompts": (TextPrompt("a"),) * 16}
        first = await s.start(ask("1", **wide))
        with pytest.raises(Overloaded):
            await s.start(ask("2", **wide))
        assert text.encoded == 16 and s.live == 1 and s.door.sequences.held == 2048
        first.close()
        assert (s.door.sequences.held, s.door.requests.held) == (0, 1 - 1)

    asyncio.run(go())


def test_fronts_share_the_limits() -> None:
    server = ServerOptions(fronts=4, max_queued_requests=10, max_queued_tokens=1000, max_queue_time=0.0)
    limits = limits_of(server)
    assert limits.sequences == 4096
    assert (limits.requests, limits.tokens, limits.wait, limits.seconds) == (2, 250, None, 3600.0)


# --- a session


def ask(id: str = "r", **fields: Any) -> Ask:
    return Ask(**{"id": id, "model": "echo", "prompts": (TextPrompt("abc"),), "max_tokens": 16, **fields})


def session(client: EchoClient, **limits: Any) -> Session:
    return Session(ByteText(), client, ("echo",), limits=Bounds(**limits))


class Counting(ByteText):
    """Counts how often it is asked to tokenise."""

    encoded = 0

    def encode(self, text: str, *, parse_special: bool = True, add_special: bool = True) -> list[int]:
        self.encoded += 1
        return super().encode(text)


def test_a_full_house_costs_nothing_and_too_many_tokens_only_their_count() -> None:
    async def go() -> None:
        client, text = EchoClient(gate=asyncio.Event()), Counting()
        s = Session(text, client, ("echo",), limits=Bounds(requests=2, tokens=5))
        first = await s.start(ask("1"))
        with pytest.raises(Overloaded) as refused:
            await s.start(ask("2"))
        assert "tokens" in refused.value.message and text.encoded == 2 and len(client.requests) == 1
        second = await s.start(ask("3", prompts=(TextPrompt("ab"),)))
        with pytest.raises(Overloaded) as refused:
            await s.start(ask("4"))
        assert "requests" in refused.value.message and text.encoded == 3
        assert s.door.stats() == {
            "live_requests": 2,
            "live_sequences": 2,
            "queued_tokens": 5,
            "rejected_requests": 1,
            "rejected_sequences": 0,
            "rejected_tokens": 1,
            "expired_requests": 0,
            "timed_out_requests": 0,
        }
        assert client.gate
        client.gate.set()
        async for _ in first:
            assert s.door.tokens.held == 2
        first.close()
        second.close()
        assert (s.live, s.door.requests.held, s.door.tokens.held) == (0, 0, 0)

    asyncio.run(go())


def test_what_the_engine_is_told() -> None:
    client = EchoClient()

    async def go() -> None:
        s = session(client, wait=30.0)
        (await s.start(ask("1", prompts=(TextPrompt("a"), TextPrompt("b"))), Caller(owner="key"))).close()

    asyncio.run(go())
    assert [(r.wait, r.account) for r in client.requests] == [(30.0, "key"), (None, "key")]


def test_a_batch_is_one_request() -> None:
    """However many prompts it has: it has one place, it is not refused on an idle server, and later prompts wait as long as
    it takes."""

    async def go() -> None:
        client = EchoClient()
        s = session(client, requests=1, tokens=4, wait=5.0)
        batch = await start_batch(s, to_items(GenerateBody(text=["abc", "def", "ghi"])))
        assert s.door.requests.held == 1 and s.door.tokens.held == 9
        assert [request.wait for request in client.requests] == [5.0, None, None]
        with pytest.raises(Overloaded):
            await s.start(ask())
        async for _ in batch:
            pass
        batch.close()
        assert (s.live, s.door.requests.held, s.door.tokens.held) == (0, 0, 0)
        with pytest.raises(BadRequest):
            await start_batch(s, to_items(GenerateBody(text=["abc", ""])))
        assert (s.live, s.door.requests.held, s.door.tokens.held) == (0, 0, 0)

    asyncio.run(go())


@pytest.mark.parametrize(
    "by", [{"ask": {"timeout": 0.05}}, {"seconds": 0.05}, {"seconds": 0.05, "ask": {"timeout": 60}}]
)
def test_a_request_that_takes_too_long_is_stopped(by: dict[str, Any]) -> None:
    async def go() -> None:
        client = EchoClient(gate=asyncio.Event())
        s = session(client, seconds=by.get("seconds"))
        generation = await s.start(ask(n=2, width=2, prompts=(TextPrompt("a"), TextPrompt("b")), **by.get("ask", {})))
        with pytest.raises(RequestTimeout) as late:
            await gather(generation)
        assert "0.05 seconds" in late.value.message
        generation.close()
        assert sorted(client.cancelled) == [0, 1, 2, 3] and not client.live and not s.live
        assert s.door.stats()["timed_out_requests"] == 1

    asyncio.run(asyncio.wait_for(go(), 20))


def test_the_time_to_prepare_counts() -> None:
    """A grammar that is looked at for ever, before anything is submitted."""

    class Slow(EchoClient):
        async def control(self, verb: str, **args: Any) -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

    async def go() -> None:
        client = Slow()
        s = session(client)
        with pytest.raises(RequestTimeout):
            await s.start(ask(timeout=0.05, constraint=Constraint(kind="regex", text="a")))
        assert (s.live, s.door.requests.held, s.door.tokens.held, client.requests) == (0, 0, 0, [])

    asyncio.run(go())


def test_nobody_waits_on_the_line_of_what_is_made_in_the_background() -> None:
    """The server's limits of time are for those who wait: a detached request obeys its own alone."""

    async def go() -> None:
        client = EchoClient(gate=asyncio.Event())
        s = session(client, seconds=0.05, wait=1.0)
        generation = await s.start(ask(detached=True))
        assert [request.wait for request in client.requests] == [None] and generation.deadline is None
        generation.close()
        with pytest.raises(RequestTimeout):
            await gather(await s.start(ask("2", detached=True, timeout=0.02)))

    asyncio.run(go())


def test_a_batch_has_one_deadline_and_yields_while_it_is_prepared() -> None:
    async def go() -> None:
        s, turns = session(EchoClient()), 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        beside = asyncio.create_task(others())
        batch = await start_batch(s, to_items(GenerateBody(text=["abc"] * 100, timeout=5.0)))
        assert len({generation.deadline for generation in batch.generations}) == 1 and turns >= 90
        beside.cancel()
        batch.close()

    asyncio.run(go())


class Looking(EchoClient):
    """Looks at a grammar for ever."""

    async def control(self, verb: str, **args: Any) -> dict[str, Any]:
        self.controls.append(verb)
        await asyncio.Event().wait()
        return {}

    async def looks(self) -> None:
        """Until it does."""
        async with asyncio.timeout(60):
            while not self.controls:
                await asyncio.sleep(0)


SLOW = Constraint(kind="regex", text="a")


def test_an_abort_reaches_what_is_still_being_prepared() -> None:
    """Its answer has the ends of one that had begun, and the engine never hears of it."""

    async def go() -> None:
        client = Looking()
        s = session(client)
        starting = asyncio.create_task(s.start(ask("1", n=2, width=2, constraint=SLOW)))
        await client.looks()
        assert s.abort("1") == 1
        generation = await asyncio.wait_for(starting, 60)
        assert [whole.end.reason for whole in await gather(generation)] == ["abort", "abort"]
        generation.close()
        assert not client.requests and not s.live and not s.door.requests.held and not s.door.sequences.held

    asyncio.run(go())


def test_an_interruption_reaches_what_is_still_being_prepared_and_whatever_comes() -> None:
    async def go() -> None:
        client = Looking()
        s = session(client)
        starting = asyncio.create_task(s.start(ask("1", constraint=SLOW)))
        await client.looks()
        s.interrupt(NotReady("Over."))
        with pytest.raises(NotReady):
            await asyncio.wait_for(starting, 60)
        with pytest.raises(NotReady):
            await s.start(ask("2"))
        assert not s.live and not s.door.requests.held

    asyncio.run(go())


def test_who_leaves_while_it_is_prepared_is_cancelled_not_answered() -> None:
    async def go() -> None:
        s = session(client := Looking())
        starting = asyncio.create_task(s.start(ask("1", constraint=SLOW)))
        await client.looks()
        s.abort("1")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not s.live and not s.door.requests.held

    asyncio.run(go())


def test_a_request_that_is_done_in_time_is_untouched() -> None:
    async def go() -> None:
        client = EchoClient(says("hello"))
        s = session(client)
        generation = await s.start(ask(timeout=1.0))
        (whole,) = await gather(generation)
        await asyncio.sleep(1.1)
        assert s.door.stats()["timed_out_requests"] == 0 and whole.text == "hello"
        generation.close()
        assert not client.cancelled

    asyncio.run(go())


# --- over HTTP

ROUTES = {
    CHAT: HELLO,
    TEXT: {"prompt": "abc", "max_tokens": 64},
    "/v1/responses": {"input": "abc"},
    "/v1/messages": {**HELLO, "max_tokens": 64},
    "/generate": {"text": "abc"},
}
LONG = says("x" * 60, end=())


def broken(client: EchoClient, reason: str) -> EchoClient:
    client.script, client.broken = (lambda request, choice: []), reason
    return client


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_who_waited_too_long_gets_429_and_is_told_when_to_come_back(path: str, stream: bool) -> None:
    client = broken(EchoClient(), "expired")
    response = post(make_app(client, wait=7.0), path, {**ROUTES[path], "stream": stream})
    if path == "/v1/responses" and stream:  # it has said `response.created` by then
        assert response.status_code == 200 and '"code":"rate_limit_exceeded"' in response.text
        return
    assert response.status_code == 429 and response.headers["retry-after"] == "1"
    assert "7 s" in response.text
    if path != "/v1/messages":
        assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_if_one_choice_expires_the_rest_is_cancelled() -> None:
    client = EchoClient(lambda request, choice: [] if choice == 1 else [*b"hello"] * 9, broken="expired")
    error(post(make_app(client), CHAT, {**HELLO, "n": 3}), 429)
    assert set(client.cancelled) == {0, 2} and not client.live - {1}


@pytest.mark.parametrize("path", ROUTES)
def test_timeout_before_the_first_byte_is_a_408(path: str) -> None:
    """And no client of OpenAI's tries it again: its time is over."""

    async def go() -> httpx.Response:
        client = EchoClient(LONG, gate=asyncio.Event())
        transport = httpx.ASGITransport(make_app(client))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            response = await http.post(path, json={**ROUTES[path], "timeout": 0.05})
        assert not client.live
        return response

    response = asyncio.run(go())
    assert response.status_code == 408 and response.headers["x-should-retry"] == "false"
    if path == "/v1/messages":
        assert response.json()["error"]["type"] == "timeout_error"
    else:
        assert response.json()["error"]["code"] == "timeout"


@pytest.mark.parametrize("path", ROUTES)
def test_timeout_later_is_an_error_event(path: str) -> None:
    """Some text has come by then."""
    client = EchoClient(LONG, gate=Turnstile(5))
    response = post(make_app(client), path, {**ROUTES[path], "timeout": 0.3, "stream": True})
    assert response.status_code == 200 and not client.live
    assert "0.3 seconds" in response.text and response.text.count('"x') > 1
    assert len(client.cancelled) == 1


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("bad", [0, -1, 1e9, "soon"])
def test_a_timeout_is_a_positive_number(path: str, bad: Any) -> None:
    response = post(make_app(), path, {**ROUTES[path], "timeout": bad})
    assert response.status_code == 400 and "timeout" in response.text
    assert post(make_app(), path, {**ROUTES[path], "timeout": None}).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_priority_and_key_reach_the_engine(path: str) -> None:
    client = EchoClient(says("ok"))
    app = make_app(client, api_key=("one", "two"))
    for key in ("one", "two", "one"):
        body = {**ROUTES[path], "priority": 3}
        assert post(app, path, body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    first, second, third = (request.account for request in client.requests)
    assert first == third != second and "one" not in first
    assert {request.priority for request in client.requests} == {3}
    assert {request.trusted for request in client.requests} == {False}


def test_whose_priority_counts_over_others() -> None:
    async def told(s: Session, caller: Caller) -> bool:
        (await s.start(ask(priority=1), caller)).close()
        return s.client.requests[-1].trusted  # type: ignore[attr-defined]

    async def go() -> None:
        s = session(EchoClient())
        assert await told(s, Caller()), "without keys all are one"
        assert not await told(s, Caller("key")) and await told(s, Caller("boss", admin=True))
        assert await told(
            Session(ByteText(), EchoClient(), ("echo",), policy=Policy(trust_priority=True)), Caller("key")
        )

    asyncio.run(go())


def test_server_info_tells_of_it() -> None:
    client = EchoClient()
    app = make_app(client, max_tokens=50)
    info = call(app, "GET", "/server_info").json()
    assert {"queued_tokens", "rejected_requests", "rejected_tokens", "expired_requests"} <= set(
        info["internal_states"][0]
    )


# --- bodies


class Slow:
    """A body that comes in two parts, the second when it may; `read`: bytes of it that were taken."""

    def __init__(self, size: int) -> None:
        self.half, self.read, self.may_end = b" " * (size // 2), 0, asyncio.Event()

    async def __aiter__(self) -> Any:
        self.read += len(self.half)
        yield self.half
        await self.may_end.wait()
        self.read += len(self.half)
        yield self.half


@pytest.mark.parametrize("path", [CHAT, TEXT, "/generate", "/v1/responses", "/v1/messages"])
def test_of_what_a_full_house_refuses_no_body_is_read(path: str) -> None:
    app = make_app(EchoClient(), max_requests=0)
    body = Slow(1000)

    async def go() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
            return await asyncio.wait_for(http.post(path, content=body), 60)

    response = asyncio.run(go())
    assert response.status_code == 429 and response.headers["retry-after"] and not body.read


@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/v1/messages/count_tokens"])
def test_all_bodies_together_are_no_more_than_so_many_bytes(path: str) -> None:
    """Many half bodies are held; what would be too much is refused, and has room when they are gone."""
    app = make_app(EchoClient(says("hi")), max_body_bytes=1000)

    async def go() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
            bodies = [Slow(1000) for _ in range(40)]
            sent = [asyncio.ensure_future(http.post(path, content=body)) for body in bodies]
            while sum(each.done() for each in sent) < 40 - 2 * BODIES:
                await asyncio.sleep(0)

            refused = [each.result() for each in sent if each.done()]
            assert all(each.headers["retry-after"] for each in refused)
            for each in sent:
                each.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
            again = (await http.post("/tokenize", json={"prompt": "x"})).status_code
            return [each.status_code for each in refused] + [again]

    assert asyncio.run(asyncio.wait_for(go(), 60)) == [429] * (40 - 2 * BODIES) + [200]


# --- work at the desk


class Gated(ByteText):
    """Long work waits in its thread until it may go on; `most`: how much of it there was at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.lock, self.now, self.most, self.done = threading.Event(), threading.Lock(), 0, 0, 0

    def wait(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.go.wait(60)
        with self.lock:
            self.now -= 1
            self.done += 1

    def encode(self, text: str, **more: Any) -> list[int]:
        if len(text) > 100:
            self.wait()
        return super().encode(text[:10], **more)

    def encode_chat(self, prompt: Any) -> list[int]:
        self.wait()
        return [1, 2, 3]

    def decode(self, ids: Any, **more: Any) -> str:
        if len(ids) > 100:
            self.wait()
        return super().decode(ids[:10], **more)


LONG_TEXT = "x" * 50_000
TURN = {"model": "echo", "messages": [{"role": "user", "content": LONG_TEXT}]}
DESK = [
    ("/tokenize", {"prompt": LONG_TEXT}),
    ("/v1/tokenize", {"messages": TURN["messages"]}),
    ("/detokenize", {"tokens": [65] * 10_000}),
    ("/v1/messages/count_tokens", TURN),
    ("/v1/responses/input_tokens", {"model": "echo", "input": LONG_TEXT}),
]


@pytest.mark.parametrize("path, body", DESK)
def test_two_long_texts_of_a_key_are_read_at_a_time_and_nobody_waits_for_them(path: str, body: dict[str, Any]) -> None:
    text = Gated()
    app = make_app(EchoClient(says("hi")), text=text, api_key=("ann", "bob"))

    async def go() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:

            def ask(key: str) -> asyncio.Task[httpx.Response]:
                return asyncio.ensure_future(http.post(path, json=body, headers={"x-api-key": key}))

            async def reached(count: int) -> None:
                """So many, and then some time for more to come."""
                while text.now < count:
                    await asyncio.sleep(0.001)
                for _ in range(20):
                    await asyncio.sleep(0.002)
                assert text.now == count

            sent = [ask("ann") for _ in range(6)]
            await reached(2)
            sent.append(ask("bob"))
            await reached(3)
            assert (await http.get("/live")).status_code == 200
            assert text.most == 3 and not text.done, "two of ann, one of bob"
            text.go.set()
            assert [(await each).status_code for each in sent] == [200] * 7

    asyncio.run(asyncio.wait_for(go(), 60))


def test_who_leaves_waits_no_more_but_what_has_begun_keeps_its_turn() -> None:
    text = Gated()
    with serving(make_app(text=text), judge=False) as live:
        content = json.dumps({"prompt": LONG_TEXT}).encode()
        head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", live.port), timeout=20) as raw:
                raw.sendall(head + content)
                until(lambda: text.now > 0 and live.house.connections)  # it has been taken in
            until(lambda: not live.house.connections)
        assert text.most <= 2
        text.go.set()
        until(lambda: not text.now)
        assert text.done <= 2, "the others had left before their turn"
        assert httpx.post(live.url + "/tokenize", json={"prompt": "ab"}, trust_env=False).json()["count"] == 2


@pytest.mark.parametrize("path", sorted({path for path, _ in DESK} | {"/separate_reasoning", "/parse_function_call"}))
def test_what_is_counted_or_parsed_is_no_larger_than_a_body(path: str) -> None:
    """Texts that no context holds are taken, but nothing beyond this."""
    fault = post(make_app(max_body_bytes=1000), path, {"prompt": LONG_TEXT})
    assert fault.status_code == 413 and "1000 bytes" in fault.text


@pytest.mark.parametrize("many", [False, True])
def test_long_answers_of_tokens_are_written_in_pieces(monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    """Of a text far larger than the context: counting it is what clients ask for. No other request waits for its JSON."""
    from radixmill.front.api import tokens

    at_once: list[int] = []
    encode = msgspec.json.encode

    def seen(value: Any, **more: Any) -> bytes:
        at_once.append(longest(value))
        if at_once[-1] > 100:
            assert threading.current_thread() is not threading.main_thread()
        return encode(value, **more)

    monkeypatch.setattr(tokens.msgspec.json, "encode", seen)
    text = "ab" * 100_000
    answer = post(make_app(), "/tokenize", {"prompt": [text, "a"] if many else text}).json()
    ids = list(text.encode())
    assert answer["tokens"] == ([ids, [97]] if many else ids)
    assert answer["count"] == ([len(ids), 1] if many else len(ids)) and answer["max_model_len"] < len(ids)
    assert max(at_once) == tokens.PIECE


def longest(value: Any) -> int:
    """The longest list of numbers in it."""
    match value:
        case Struct():
            return longest(msgspec.structs.asdict(value))
        case dict():
            return max(map(longest, value.values()), default=0)
        case [int(), *_]:
            return len(value)
        case [*parts]:
            return max(map(longest, parts), default=0)
    return 0
