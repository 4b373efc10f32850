"""The Messages API as its official client meets it; and its errors, of every kind."""

from __future__ import annotations

import asyncio

import anthropic
import httpx
import pytest

from radixmill.core.config import Config
from radixmill.front.api.app import create_app
from radixmill.front.session import Arguments, Call, Content, End, Front, Reasoning
from tests.fakes import EchoClient
from tests.front.anthropic_kit import COUNT, HI, MESSAGES, TOOL, client_of, fault, parse_events, telling_front
from tests.front.kit import call, make_app, make_front, post, says


def test_the_official_client_asks_and_streams():
    engine = EchoClient(says("Hello there"), cached=1)
    with client_of(make_app(engine)) as client:
        message = client.messages.create(**HI, system="S", stop_sequences=["there"])
        assert message.id.startswith("msg_") and message.role == "assistant" and message.model == "echo"
        assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello "}]
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "there")
        assert message.usage.cache_read_input_tokens == 1 and message.usage.output_tokens == 11
        with client.messages.stream(**HI) as stream:
            assert "".join(stream.text_stream) == "Hello there" == stream.get_final_text()
            assert stream.get_final_message().stop_reason == "end_turn" and stream.request_id
        assert client.messages.count_tokens(model="echo", messages=HI["messages"]).input_tokens == 4
    assert engine.requests[0].prompt[:2] == (258, ord("S"))


def test_stop_sequences_that_are_kept():
    app = make_app(EchoClient(says("Hello there")))
    answer = post(app, MESSAGES, {**HI, "stop_sequences": ["lo"], "no_stop_trim": True}).json()
    assert answer["content"][0]["text"] == "Hello" and answer["stop_sequence"] == "lo"


def test_a_round_trip_with_a_tool():
    app, front = make_front()
    session = telling_front(front)
    with client_of(app) as client:
        session.told = [
            (Reasoning(0, "look it up"), Content(0, "One moment."), Call(0, 0, "call_1", "weather")),
            (Arguments(0, 0, '{"city": '), Arguments(0, 0, '"Oslo"}'), End(0, "tool_calls")),
        ]
        asked = {"model": "echo", "max_tokens": 64, "tools": [TOOL]}
        question = {"role": "user", "content": "Weather in Oslo?"}
        first = client.messages.create(**asked, messages=[question])
        assert first.stop_reason == "tool_use"
        thinking, text, use = first.content
        assert (thinking.thinking, text.text, use.id, use.input) == (
            "look it up",
            "One moment.",
            "toolu_1",
            {"city": "Oslo"},
        )
        session.told = [(Content(0, "Sunny."), End(0, "stop"))]
        result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sun"}]}
        back = [question, first.to_param(), {"role": "user", "content": [result]}]
        second = client.messages.create(**asked, messages=back)
        assert second.content[0].text == "Sunny."
    turns = session.asks[-1].prompts[0].messages
    assert turns[1]["reasoning_content"] == "look it up" and turns[1]["content"] == "One moment."
    assert turns[1]["tool_calls"][0]["id"] == turns[2]["tool_call_id"] == "toolu_1" and turns[2]["content"] == "sun"


@pytest.mark.parametrize(
    "change, kind",
    [
        ({"temperature": 3}, anthropic.BadRequestError),
        ({"max_tokens": 9999}, anthropic.BadRequestError),
        ({"model": "other"}, anthropic.NotFoundError),
    ],
)
def test_errors_are_the_clients_own_classes(change, kind):
    with client_of(make_app()) as client, pytest.raises(kind) as caught:
        client.messages.create(**HI, extra_body=change)
    assert caught.value.request_id and next(iter(change)) in str(caught.value)


def test_keys_as_the_client_sends_them():
    app = make_app(api_key=("k",))
    with client_of(app, "k") as client:
        assert client.messages.create(**HI).content
    with client_of(app, "wrong") as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.messages.create(**HI)
    assert caught.value.type == "authentication_error"
    for path in (MESSAGES, COUNT, MESSAGES + "/batches"):
        assert "key" in fault(post(app, path, HI), 401, "authentication_error")


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@pytest.mark.parametrize(
    "raw, place",
    [
        (b"", "body"),
        (b"{", "JSON"),
        (b"[]", "body"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b'{"messages": "\\ud800"}', "messages"),
    ],
)
def test_bodies_that_are_none(path, raw, place):
    response = call(make_app(), "POST", path, content=raw, headers={"content-type": "application/json"})
    assert place in fault(response, 400, "invalid_request_error")


def test_other_errors_of_http():
    app = make_app(max_body_bytes=100)
    assert "larger" in fault(post(app, MESSAGES, {**HI, "x": "y" * 200}), 413, "request_too_large")
    assert "POST" in fault(call(app, "GET", MESSAGES), 405, "invalid_request_error")
    assert "batches" in fault(post(app, MESSAGES + "/batches", {}), 404, "not_found_error")
    plain = call(app, "POST", MESSAGES, content=b"{}", headers={"content-type": "text/plain"})
    assert "Content-Type" in fault(plain, 400, "invalid_request_error")


def test_errors_of_the_model_and_its_queue():
    full = make_app(EchoClient(), max_requests=0)
    assert post(full, MESSAGES, HI).headers["retry-after"]
    assert "limit" in fault(post(full, MESSAGES, HI), 429, "rate_limit_error")
    assert "other" in fault(post(make_app(), COUNT, {**HI, "model": "other"}), 404, "not_found_error")
    message = fault(post(make_app(), MESSAGES, {**HI, "max_tokens": 600}), 400, "invalid_request_error")
    assert message.startswith("max_tokens: ") and "512" in message and "604" in message
    long = {**HI, "messages": [{"role": "user", "content": "x" * 600}]}
    assert fault(post(make_app(), MESSAGES, long), 400, "invalid_request_error").startswith("messages: ")


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
def test_before_the_model_is_there(path):
    response = post(create_app(Front(Config())), path, HI)
    assert "loading" in fault(response, 503, "overloaded_error") and response.headers["retry-after"] == "1"


def test_a_bug_of_ours_says_nothing_of_our_insides(monkeypatch):
    app, front = make_front()
    monkeypatch.setattr(front.session, "start", None)
    message = fault(post(app, MESSAGES, HI), 500, "api_error")
    assert "NoneType" not in message


def test_an_engine_that_fails():
    broken = EchoClient(lambda request, choice: [*b"half"], broken="failed")
    events = parse_events(post(make_app(broken), MESSAGES, {**HI, "stream": True}).text)
    assert events[-1]["type"] == "error" and events[-1]["error"]["type"] == "api_error"
    assert "kernel" not in fault(post(make_app(broken), MESSAGES, HI), 500, "api_error")


def test_other_routes_keep_their_shape():
    response = post(make_app(), "/v1/chat/completions", {})
    assert set(response.json()) == {"error"} and "request-id" not in response.headers
    assert set(post(make_app(), "/v1/messagesx", {}).json()) == {"error"}


def test_ids_in_and_out():
    app = make_app()
    response = post(app, MESSAGES, {**HI, "rid": "job"}, headers={"anthropic-version": "2023-06-01"})
    assert response.json()["id"] == "msg_job" and response.headers["request-id"] == "job"
    assert post(app, MESSAGES, HI, headers={"x-request-id": "mine"}).headers["request-id"] == "mine"


def test_an_answer_can_be_aborted_by_its_id():
    engine = EchoClient(says("x" * 100))
    app, front = make_front(engine)

    async def go() -> tuple[dict, dict]:
        engine.gate = asyncio.Event()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as http:
            running = asyncio.create_task(http.post(MESSAGES, json={**HI, "rid": "job"}))
            while not engine.live:
                await asyncio.sleep(0.001)
            aborted = await http.post("/abort_request", json={"rid": "msg_job"})
            engine.gate.set()
            return aborted.json(), (await running).json()

    aborted, answer = asyncio.run(go())
    assert aborted == {"aborted": 1} and answer["stop_reason"] == "max_tokens" and not front.session.live
