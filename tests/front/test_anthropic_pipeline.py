"""The Messages API over the whole session: raw text of a model → blocks, under any cut; grammars and their errors."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from radixmill.front.dialects import THINKING
from radixmill.front.session import Front, Session
from tests.fakes import ByteText, EchoClient
from tests.front.anthropic_kit import COUNT, HI, MESSAGES, TOOL, client_of, fault, parse_events
from tests.front.kit import make_app, make_front, post, says

APP, FRONT = make_front()
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def install(front: Front, client: EchoClient) -> None:
    """A model that thinks."""
    front.client, front.session = client, Session(ByteText(THINKING), client, ("echo",))


def gathered(body: dict[str, Any]) -> dict[str, Any]:
    """The message that the official client's own accumulator makes of a stream."""
    message, buffers = None, {}
    for event in parse_events(post(APP, MESSAGES, {**body, "stream": True}).text):
        if event["type"] != "ping":
            message = accumulate_event(event=event, current_snapshot=message, json_bufs=buffers)
    assert message is not None
    return essence(message.to_dict())


def essence(message: dict[str, Any]) -> dict[str, Any]:
    """Without its ids, which are the request's."""
    blocks = [{key: value for key, value in block.items() if key != "id"} for block in message["content"]]
    return {**message, "id": "", "content": blocks}


PIECES = [
    "a",
    " ",
    "\n",
    "é",
    "stop",
    "<think>",
    "</think>",
    CALL,
    CALL[:30],
    "<tool_call>",
    "</tool_call>",
    '{"name": ',
]


@given(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.booleans(),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "stop_sequences": st.just(["stop", "é"]),
            "tools": st.just([TOOL]),
            "max_tokens": st.integers(1, 90),
            "thinking": st.just({"type": "adaptive", "display": "omitted"}),
            "no_stop_trim": st.just(True),
        },
    ),
)
@settings(max_examples=200, deadline=None)
def test_what_is_gathered_is_the_whole_answer_under_any_cut(said, thinks, cuts, fields):
    body = {**HI, "max_tokens": 200, "seed": 1, **fields}
    script = says("<think>hm</think>" * thinks + said)
    install(FRONT, EchoClient(script, cuts=[1000]))
    whole = essence(post(APP, MESSAGES, body).json())
    install(FRONT, EchoClient(script, cuts=cuts))
    assert gathered(body) == whole == essence(post(APP, MESSAGES, body).json())


def test_thoughts_words_and_calls():
    install(FRONT, EchoClient(says(f"<think>\nlook it up\n</think>\n\nOne moment.\n{CALL}\n{CALL}"), cuts=[3]))
    with client_of(APP) as client:
        message = client.messages.create(**HI | {"max_tokens": 400}, tools=[TOOL])
    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, text, *uses = message.content
    assert thinking.thinking.strip() == "look it up" and text.text.strip() == "One moment."
    assert [(use.name, use.input) for use in uses] == [("weather", {"city": "Oslo"})] * 2
    assert len({use.id for use in uses}) == 2 and all(use.id.startswith("toolu_") for use in uses)
    details = message.usage.output_tokens_details
    assert details is not None and 0 < details.thinking_tokens < message.usage.output_tokens


def test_one_call_alone():
    install(FRONT, EchoClient(says(CALL + CALL)))
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    answer = post(APP, MESSAGES, {**HI, "max_tokens": 400, "tools": [TOOL], "tool_choice": choice}).json()
    assert [block["type"] for block in answer["content"]] == ["tool_use"] and answer["stop_reason"] == "tool_use"


def test_what_binds_the_answer():
    engine = EchoClient(says('{"city": "Oslo"}'))
    app = make_app(engine)
    format = {"type": "json_schema", "schema": TOOL["input_schema"]}
    post(app, MESSAGES, {**HI, "output_config": {"format": format}})
    post(app, MESSAGES, {**HI, "tools": [TOOL], "tool_choice": {"type": "any"}})
    post(app, MESSAGES, {**HI, "tools": [TOOL]})
    bound, required, free = (request.constraint for request in engine.requests)
    assert bound is not None and json.loads(bound.text) == TOOL["input_schema"]
    assert required is not None and '"weather"' in required.text.replace("\\", "") and free is None


def test_a_format_by_pydantic():
    class City(BaseModel):
        name: str
        people: int

    with client_of(make_app(EchoClient(says('{"name": "Oslo", "people": 700000}')))) as client:
        parsed = client.messages.parse(**HI, output_format=City)
        assert parsed.parsed_output == City(name="Oslo", people=700_000)


@pytest.mark.parametrize(
    "fields, place",
    [
        ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema", "schema": {"not": {}}}}, "output_format.schema"),
        ({"tools": [TOOL, {**TOOL, "name": "x", "strict": True}]}, "tools[1].input_schema"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "any"},
                "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
            },
            "output_config.format.schema",
        ),
    ],
)
def test_what_can_not_be_enforced_names_its_place(fields, place):
    engine = EchoClient(refuse=lambda kind, text: {"reason": "not this one", "place": "/not"})
    message = fault(post(make_app(engine), MESSAGES, {**HI, **fields}), 400, "invalid_request_error")
    assert message.startswith(place) and not engine.requests


def test_tools_count():
    plain = post(APP, COUNT, HI).json()["input_tokens"]
    assert FRONT.session is not None and isinstance(FRONT.session.text, ByteText)
    post(APP, COUNT, {**HI, "tools": [TOOL]})
    assert FRONT.session.text.chats[-1].tools[0]["function"]["name"] == "weather" and plain == 4


def test_the_official_client_runs_tools_by_itself():
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name
        """
        return f"sun in {city}"

    engine = EchoClient(
        lambda request, choice: [*(b"Sunny." if b"sun in" in bytes_of(request.prompt) else CALL.encode()), 256]
    )
    with client_of(make_app(engine)) as client:
        runner = client.beta.messages.tool_runner(
            model="echo", max_tokens=200, tools=[weather], messages=HI["messages"]
        )
        assert runner.until_done().content[0].text == "Sunny."


def bytes_of(ids: tuple[int, ...]) -> bytes:
    return bytes(i for i in ids if i < 256)


@pytest.mark.parametrize("most", range(1, len(CALL), 3))
def test_an_answer_cut_by_length_is_accepted_as_history(most):
    front_app, front = make_front()
    front.session = Session(ByteText(), EchoClient(says(CALL)), ("echo",))
    body = {**HI, "tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": most}
    content = post(front_app, MESSAGES, body).json()["content"]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "4"}
        for block in content
        if block["type"] == "tool_use"
    ]
    said = {"role": "assistant", "content": content}
    on = {"role": "user", "content": [*results, {"type": "text", "text": "go on"}]}
    again = post(front_app, MESSAGES, {**HI, "tools": [TOOL], "messages": [*HI["messages"], said, on]})
    assert again.status_code == 200, again.text
