"""What clients are told when the server must end before their answer does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from radixmill.core.errors import NotReady
from radixmill.front.session import Front
from tests.fakes import EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, make_front

ENDING = NotReady("The server is shutting down.", code="shutting_down", retry_after=5.0)
BODIES: dict[str, dict[str, Any]] = {
    CHAT: HELLO,
    TEXT: {"prompt": "x", "max_tokens": 400},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {**HELLO, "model": "default", "max_tokens": 400},
    "/generate": {"text": "x", "sampling_params": {"max_new_tokens": 400}},
}


def endless(request: Any, choice: int) -> list[int]:
    return [*b"on and on "] * 40


async def interrupted(path: str, body: dict[str, Any], *, after: int = 3) -> tuple[httpx.Response, Front, EchoClient]:
    """The answer to a request during which all is interrupted, once so many deltas have been said."""

    def left() -> int:
        return len(client.streams[0]._queues[0])

    client = EchoClient(endless, pause=0.002)
    app, front = make_front(client)
    assert front.session
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", trust_env=False) as http:
        asking = asyncio.create_task(http.post(path, json=body))
        async with asyncio.timeout(60):
            while not client.live:
                await asyncio.sleep(0)
            whole = left()
            while whole - left() < after:
                await asyncio.sleep(0)
        front.session.interrupt(ENDING)
        answer = await asyncio.wait_for(asking, 10)
    return answer, front, client


def last_events(text: str, count: int) -> list[str]:
    return [event for event in text.split("\n\n") if event][-count:]


@pytest.mark.parametrize("path", BODIES)
def test_a_whole_answer_becomes_a_503_that_says_when_to_come_again(path: str) -> None:
    answer, front, client = asyncio.run(interrupted(path, BODIES[path]))
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
    assert "shutting down" in answer.json()["error"]["message"]
    assert front.live == 0 and not client.live


@pytest.mark.parametrize("path", [CHAT, TEXT, "/generate"])
def test_a_stream_of_openais_says_an_error_and_done(path: str) -> None:
    answer, front, _ = asyncio.run(interrupted(path, {**BODIES[path], "stream": True}, after=20))
    error, done = last_events(answer.text, 2)
    assert answer.status_code == 200 and done == "data: [DONE]"
    told = json.loads(error.removeprefix("data: "))["error"]
    assert told["code"] == "shutting_down" and told["type"] == "server_error"
    assert len(last_events(answer.text, 99)) > 3, "what was said until then came first"
    assert front.live == 0


def test_a_stream_of_anthropics_says_event_error() -> None:
    answer, _, _ = asyncio.run(interrupted("/v1/messages", {**BODIES["/v1/messages"], "stream": True}, after=20))
    (error,) = last_events(answer.text, 1)
    name, data = error.split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"] == {
        "type": "overloaded_error",
        "message": "The server is shutting down.",
    }


def test_a_stream_of_responses_says_that_the_response_failed() -> None:
    answer, _, _ = asyncio.run(interrupted("/v1/responses", {**BODIES["/v1/responses"], "stream": True}, after=20))
    failed = last_events(answer.text, 1)[0]
    assert failed.startswith("event: response.failed\n")
    response = json.loads(failed.split("data: ", 1)[1])["response"]
    assert response["status"] == "failed" and "shutting down" in response["error"]["message"]


def test_a_background_response_fails_and_says_so() -> None:
    async def story() -> dict[str, Any]:
        client = EchoClient(endless, pause=0.002)
        app, front = make_front(client)
        assert front.session
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test", trust_env=False
        ) as http:
            made = (await http.post("/v1/responses", json={"input": "x", "background": True})).json()
            assert made["status"] in ("queued", "in_progress")
            front.session.interrupt(ENDING)
            while front.session.live:
                await asyncio.sleep(0.002)
            return dict((await http.get(f"/v1/responses/{made['id']}")).json())

    response = asyncio.run(asyncio.wait_for(story(), 20))
    assert response["status"] == "failed" and "shutting down" in response["error"]["message"]


def test_what_is_still_being_prepared_is_interrupted_too() -> None:
    """A long text is tokenised off the loop meanwhile."""

    async def story() -> httpx.Response:
        client = EchoClient(endless, pause=0.002)
        app, front = make_front(client)
        assert front.session
        begun = asyncio.Event()
        tokenise = front.session.tokenise

        async def slowly(*args: Any) -> Any:
            begun.set()
            await asyncio.sleep(0.02)
            return await tokenise(*args)

        front.session.preparer.tokenise = slowly  # type: ignore[method-assign]
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test", trust_env=False
        ) as http:
            asking = asyncio.create_task(http.post(TEXT, json=BODIES[TEXT]))
            await begun.wait()
            assert not front.session.idle
            front.session.interrupt(ENDING)
            answer = await asking
            assert front.session.live == 0
            return answer

    assert asyncio.run(asyncio.wait_for(story(), 20)).status_code == 503


def test_a_session_is_not_idle_while_someone_who_was_given_it_may_start_something() -> None:
    async def story() -> None:
        _, front = make_front()
        assert front.session and front.session.idle
        gate = asyncio.Event()

        async def user() -> None:
            front.ready_session()
            await gate.wait()

        task = asyncio.create_task(user())
        await asyncio.sleep(0)
        assert not front.session.idle
        gate.set()
        await task
        assert front.session.idle

    asyncio.run(story())


def test_an_order_to_reload_needs_someone_to_carry_it_out() -> None:
    async def story() -> int:
        app, _ = make_front()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test", trust_env=False
        ) as http:
            return (await http.post("/admin/reload", json={})).status_code

    assert asyncio.run(story()) == 404
