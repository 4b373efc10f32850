"""The official client against the Responses API, on a real socket; and clients that leave."""

from __future__ import annotations

import json
import socket

import openai
import pytest
from pydantic import BaseModel

from radixmill.front.dialects import THINKING
from radixmill.front.session.session import Session
from tests.fakes import ByteText, EchoClient, Turnstile
from tests.front.kit import make_app, make_front, says, serving, until
from tests.front.responses_kit import HI, PATH, WEATHER
from tests.front.test_api_server import request_bytes
from tests.front.test_responses_make import WORDS


@pytest.fixture
def official():
    """(a client, the scripted engine behind it): a model that thinks, unless told otherwise."""
    engine = EchoClient(says("Hello"))
    app, front = make_front(engine)
    front.session = Session(ByteText(THINKING), engine, ("echo",))
    with serving(app) as live, openai.OpenAI(base_url=live.url + "/v1", api_key="x", max_retries=0) as client:
        yield client, engine


def test_create_retrieve_list_delete(official):
    client, _ = official
    made = client.responses.create(model="echo", input="hi", instructions="Be kind.", metadata={"a": "b"})
    assert (made.output_text, made.status, made.metadata) == ("Hello", "completed", {"a": "b"})
    assert client.responses.retrieve(made.id) == made
    items = list(client.responses.input_items.list(made.id, limit=1))
    assert [(item.role, item.content[0].text) for item in items] == [("user", "hi")]
    on = client.responses.create(model="echo", input="more", previous_response_id=made.id)
    assert [item.id for item in client.responses.input_items.list(on.id, limit=1, order="asc")][:2] == [
        items[0].id,
        made.output[0].id,
    ], "the client pages by itself"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.retrieve(made.id)
    assert gone.value.param == "response_id"
    assert client.responses.input_tokens.count(model="echo", input="hi").input_tokens == 4


def test_a_stream_of_everything(official):
    client, engine = official
    engine.script = says(WORDS)
    tools = [{**WEATHER, "strict": False}, {"type": "custom", "name": "note"}]
    with client.responses.stream(model="echo", input="hi", tools=tools) as stream:
        seen = [event.type for event in stream]
        final = stream.get_final_response()
    assert seen[0] == "response.created" and seen[-1] == "response.completed"
    for kind in ("reasoning_text", "output_text", "function_call_arguments", "custom_tool_call_input"):
        assert f"response.{kind}.delta" in seen and f"response.{kind}.done" in seen
    assert final.output_text.strip() == "I will look."
    thought, _, call, note = final.output
    assert thought.content[0].text == "Let me see." and json.loads(call.arguments) == {"place": "Rome"}
    assert note.input == "buy é\n"


def test_what_was_said_is_sent_back(official):
    client, engine = official
    engine.script = says(WORDS)
    tools = [{**WEATHER, "strict": False}, {"type": "custom", "name": "note"}]
    first = client.responses.create(model="echo", input="hi", tools=tools, store=False)
    history = [{"role": "user", "content": "hi"}, *(item.model_dump() for item in first.output)]
    history += [
        {"type": "function_call_output", "call_id": first.output[2].call_id, "output": "sunny"},
        {"type": "custom_tool_call_output", "call_id": first.output[3].call_id, "output": "noted"},
    ]
    engine.script = says("It is sunny.")
    second = client.responses.create(model="echo", input=history, tools=tools, store=False)
    assert second.output_text == "It is sunny."


class Step(BaseModel):
    explanation: str
    output: int


class Maths(BaseModel):
    steps: list[Step]
    answer: int | None


def test_parse_with_pydantic(official):
    client, engine = official
    engine.script = says(json.dumps({"steps": [{"explanation": "add", "output": 4}], "answer": 4}))
    parsed = client.responses.parse(model="echo", input="2+2?", text_format=Maths)
    assert parsed.output_parsed == Maths(steps=[Step(explanation="add", output=4)], answer=4)
    bound = engine.requests[-1].constraint
    assert "explanation" in bound.text


def test_in_the_background_and_cancelled(official):
    client, engine = official
    engine.script, engine.pause = says("x" * 400), 0.01
    made = client.responses.create(model="echo", input="hi", background=True)
    assert made.status == "queued"
    until(lambda: bool(client.responses.retrieve(made.id).output))
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_a_stream_goes_on_where_it_was_left(official):
    client, engine = official
    engine.pause = 0.01
    with client.responses.create(model="echo", input="hi", background=True, stream=True) as stream:
        head = [event for event, _ in zip(stream, range(5), strict=False)]
    id, last = head[0].response.id, head[-1].sequence_number
    with client.responses.retrieve(id, stream=True, starting_after=last) as rest:
        tail = list(rest)
    assert [event.sequence_number for event in (*head, *tail)] == list(range(len(head) + len(tail)))
    assert tail[-1].response.output_text == "Hello"


def test_errors_are_the_clients(official):
    client, _ = official
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(model="echo", input=[{"role": "user", "content": [{"type": "input_image"}]}])
    assert bad.value.param == "input[0].content[0].type"
    with pytest.raises(openai.BadRequestError) as hosted:
        client.responses.create(model="echo", input="hi", tools=[{"type": "web_search"}])
    assert hosted.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-9", input="hi")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_response(stream):
    engine = EchoClient(says("x" * 400), pause=0.1)
    app, front = make_front(engine)
    with serving(app) as live:
        with socket.create_connection(("127.0.0.1", live.port)) as raw:
            raw.sendall(request_bytes(PATH, {**HI, "stream": stream}))
            until(lambda: bool(engine.live))
        until(lambda: not engine.live and not front.session.live)
    assert engine.cancelled == [0]


def test_a_background_response_goes_on_without_its_client():
    engine = EchoClient(says("x" * 40), pause=0.01)
    app, front = make_front(engine)
    with serving(app) as live:
        with socket.create_connection(("127.0.0.1", live.port)) as raw:
            raw.sendall(request_bytes(PATH, {**HI, "stream": True, "background": True, "rid": "r"}))
            assert raw.recv(20).startswith(b"HTTP/1.1 200")
        until(lambda: not front.session.live)
        with openai.OpenAI(base_url=live.url + "/v1", api_key="x") as client:
            assert client.responses.retrieve("resp_r").output_text == "x" * 40
    assert not engine.cancelled


def test_the_first_event_does_not_wait_for_the_first_token():
    engine = EchoClient(says("a"), gate=(gate := Turnstile(0)))
    with (
        serving(make_app(engine)) as live,
        openai.OpenAI(base_url=live.url + "/v1", api_key="x") as client,
        client.responses.create(model="echo", input="hi", stream=True) as stream,
    ):
        events = iter(stream)
        assert [next(events).type for _ in range(2)] == ["response.created", "response.in_progress"]
        assert engine.live, "nothing was said yet"
        gate.set()
        assert list(events)[-1].type == "response.completed"
