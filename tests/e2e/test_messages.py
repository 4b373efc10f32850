"""Anthropic's official client on the embedded model."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from tests.e2e.kit import Server
from tests.front.anthropic_kit import official

pytestmark = pytest.mark.weights

QUESTION: dict[str, Any] = {
    "model": "default",
    "max_tokens": 32,
    "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    "extra_body": {"temperature": 0, "seed": 1},
}


@pytest.fixture(scope="module")
def client(smollm2_server: Server) -> anthropic.Anthropic:
    return official(smollm2_server.url)


def said(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert isinstance(block, anthropic.types.TextBlock)
    return block.text


def test_it_answers_and_streams_the_same(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**QUESTION)
    assert "Paris" in said(whole) and whole.stop_reason == "end_turn"
    with client.messages.stream(**QUESTION) as stream:
        pieces = list(stream.text_stream)
        gathered = stream.get_final_message()
    assert len(pieces) > 5 and "".join(pieces) == said(whole)
    assert (gathered.stop_reason, gathered.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_counts_are_those_of_the_prompt(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**QUESTION, system="You are brief.")
    count = client.messages.count_tokens(model="default", messages=QUESTION["messages"], system="You are brief.")
    assert count.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    again = client.messages.create(**QUESTION, system="You are brief.")
    assert again.usage.input_tokens < count.input_tokens and again.usage.cache_read_input_tokens
    assert said(again) == said(message)


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**QUESTION, stop_sequences=["Paris", "London"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in said(message)


def test_an_answer_begun_is_gone_on_with(client: anthropic.Anthropic) -> None:
    whole = said(client.messages.create(**QUESTION))
    begun = whole[: whole.index("France")]
    turn = {"role": "assistant", "content": begun.rstrip()}
    rest = said(client.messages.create(**{**QUESTION, "messages": [*QUESTION["messages"], turn]}))
    assert begun.rstrip() + rest == whole


TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def test_a_tool_that_must_be_called_is(client: anthropic.Anthropic) -> None:
    asked = {**QUESTION, "max_tokens": 100, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}}
    message = client.messages.create(**asked)
    (use,) = message.content
    assert isinstance(use, anthropic.types.ToolUseBlock) and message.stop_reason == "tool_use"
    assert use.name == "weather" and list(use.input) == ["city"] and isinstance(use.input["city"], str)
    with client.messages.stream(**asked) as stream:
        (streamed,) = stream.get_final_message().content
    assert isinstance(streamed, anthropic.types.ToolUseBlock) and streamed.input == use.input
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny, 20 degrees."}
    back = [*QUESTION["messages"], message.to_param(), {"role": "user", "content": [result]}]
    final = client.messages.create(**{**QUESTION, "messages": back}, tools=[TOOL], tool_choice={"type": "none"})
    assert said(final)
    with_tools = client.messages.count_tokens(model="default", messages=back, tools=[TOOL])
    assert with_tools.input_tokens > client.messages.count_tokens(model="default", messages=back).input_tokens


def test_an_answer_of_a_schema(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}, "rivers": {"type": "integer"}},
        "required": ["capital", "rivers"],
        "additionalProperties": False,
    }
    asked = {**QUESTION, "max_tokens": 100, "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    made = json.loads(said(client.messages.create(**asked)))
    assert set(made) == {"capital", "rivers"} and isinstance(made["rivers"], int)


def test_errors(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"max_tokens: .*maximum context length"):
        client.messages.create(**{**QUESTION, "max_tokens": 10**6})
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.messages.create(**{**QUESTION, "model": "nobody"})
