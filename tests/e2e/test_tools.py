"""Tool calls of a small model whose template knows nothing of tools: whatever it is asked, calls are valid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from tests.e2e.kit import Server

pytestmark = pytest.mark.weights

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city", "parameters": SCHEMA},
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time"}}
PHONE = {
    "type": "custom",
    "custom": {
        "name": "phone",
        "description": "Calls a number",
        "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": r"\+[0-9]{4,8}"}},
    },
}
ASK = {"model": "default", "messages": [{"role": "user", "content": "What is the weather in Oslo?"}], "max_tokens": 120}


@pytest.fixture(scope="module")
def client(smollm2_server: Server) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False, timeout=120)
    with openai.OpenAI(base_url=f"{smollm2_server.url}/v1", api_key="k", http_client=http) as made:
        yield made


@pytest.mark.parametrize("seed", range(4))
def test_a_required_call_is_valid_streamed_or_not(client: openai.OpenAI, seed: int) -> None:
    body: dict[str, Any] = {
        **ASK,
        "tools": [WEATHER, CLOCK],
        "tool_choice": "required",
        "seed": seed,
        "temperature": 1.2,
    }
    body["parallel_tool_calls"] = False
    whole = client.chat.completions.create(**body).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.content is None
    (call,) = whole.message.tool_calls
    jsonschema.validate(
        json.loads(call.function.arguments), SCHEMA if call.function.name == "weather" else {"maxProperties": 0}
    )
    with client.chat.completions.stream(**body) as stream:
        folded = stream.get_final_completion().choices[0]
    (same,) = folded.message.tool_calls
    assert (same.function.name, same.function.arguments) == (call.function.name, call.function.arguments)
    assert folded.finish_reason == "tool_calls" and not folded.message.content


def test_a_named_tool_and_a_format(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "clock"}}
    (call,) = (
        client.chat.completions.create(**ASK, tools=[WEATHER, CLOCK], tool_choice=named, parallel_tool_calls=False)
        .choices[0]
        .message.tool_calls
    )
    assert (call.function.name, call.function.arguments) == ("clock", "{}")
    phone = {"type": "custom", "custom": {"name": "phone"}}
    (call,) = (
        client.chat.completions.create(**ASK, tools=[PHONE], tool_choice=phone, parallel_tool_calls=False)
        .choices[0]
        .message.tool_calls
    )
    assert re.fullmatch(r"\+[0-9]{4,8}", call.custom.input)


def test_history_with_calls_is_understood(client: openai.OpenAI) -> None:
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo", "unit": "C"}'},
    }
    messages = [
        *ASK["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "4 C"},
    ]
    answer = client.chat.completions.create(**{**ASK, "messages": messages, "max_tokens": 8}, tools=[WEATHER])
    assert answer.usage.prompt_tokens > 150, "the tools and the call are in the prompt"
