"""The Responses API on the real model, through the official client: answers, formats, calls, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.e2e.kit import Server
from tests.front.responses_kit import essence

pytestmark = pytest.mark.weights

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "maxLength": 20}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}
FIXED = {"temperature": 1.0, "extra_body": {"seed": 7}}


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


@pytest.fixture
def client(smollm2_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=smollm2_server.url + "/v1", api_key="x", max_retries=0, timeout=120) as official:
        yield official


def test_a_stream_and_a_whole_answer_are_the_same(client: openai.OpenAI) -> None:
    asked = {"model": "default", "input": "Name a fruit.", "max_output_tokens": 32, "top_logprobs": 3, **FIXED}
    asked["include"] = ["message.output_text.logprobs"]
    whole = client.responses.create(**asked)
    *_, last = client.responses.create(**asked, stream=True)
    assert essence(last.response.model_dump()["output"]) == essence(whole.model_dump()["output"])
    logprobs = whole.output[0].content[0].logprobs
    assert len(logprobs) == whole.usage.output_tokens and all(len(entry.top_logprobs) == 3 for entry in logprobs)


def test_a_conversation_goes_on_from_the_cache(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model="default", input="My name is Bob. " * 20, instructions="Be brief.", max_output_tokens=16, **FIXED
    )
    second = client.responses.create(
        model="default",
        input="And who are you?",
        instructions="Be brief.",
        previous_response_id=first.id,
        max_output_tokens=16,
        **FIXED,
    )
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 8


def test_parsed_and_called(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(
        model="default", input="Describe Bob, who is 3.", text_format=Person, max_output_tokens=64, **FIXED
    )
    assert parsed.output_parsed is not None and len(parsed.output_parsed.name) <= 12
    asked = {"model": "default", "input": "Is it raining in Rome?", "tools": [WEATHER], **FIXED}
    called = client.responses.create(**asked, tool_choice="required", parallel_tool_calls=False, max_output_tokens=64)
    (call,) = called.output
    assert call.name == "weather" and set(json.loads(call.arguments)) == {"place"}
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    asked |= {"input": [told], "previous_response_id": called.id, "max_output_tokens": 16}
    answer = client.responses.create(**asked, tool_choice="none")
    assert answer.output_text


def test_a_background_response_is_cancelled(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="default", input="Tell a long story.", background=True, max_output_tokens=2000, **FIXED
    )
    assert client.responses.cancel(made.id).status in ("cancelled", "completed")
    assert client.responses.retrieve(made.id).status in ("cancelled", "completed")
