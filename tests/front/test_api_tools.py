"""Tools and thoughts of chat completions: what each field asks of the session, what comes back, what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import openai
import pytest
from pydantic import BaseModel

from radixmill.front.api.openai.chat import ChatBody, to_ask
from radixmill.front.dialects import THINKING
from radixmill.front.session import ChatPrompt, Tool
from tests.fakes import ByteText, EchoClient
from tests.front.kit import CHAT, HELLO, answer, chunks, error, make_app, post, says, serving
from tests.front.test_api_bad_input import refused

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NOTE = {"type": "custom", "custom": {"name": "note", "description": "n"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Jülich"}}\n</tool_call>'
ARGUMENTS = '{"city": "Jülich"}'


def asked(**fields: Any) -> Any:
    """The Ask of a body."""
    return to_ask(msgspec.json.decode(json.dumps({**HELLO, **fields}), type=ChatBody), "id")


# What is asked of the session.


def test_tools_of_both_kinds():
    strict = {"type": "function", "function": {"name": "s", "strict": True, "parameters": SCHEMA}}
    sql = {
        "type": "custom",
        "custom": {
            "name": "sql",
            "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "SELECT .*"}},
        },
    }
    plain = {"type": "custom", "custom": {"name": "plain", "format": {"type": "text"}}}
    rule = asked(tools=[WEATHER, CLOCK, strict, NOTE, sql, plain]).tools
    weather, clock, s, note, query, text = rule.tools
    assert weather == Tool(name="weather", description="d", parameters=SCHEMA, field="tools[0].function.parameters")
    assert (clock.parameters, clock.strict, s.strict) == (None, False, True)
    assert (note.custom, note.format, note.description) == (True, None, "n")
    assert (query.format.kind, query.format.text, query.field) == ("regex", "SELECT .*", "tools[4].custom.format")
    assert text.custom and text.format is None
    assert (rule.choice, rule.allowed, rule.parallel) == ("auto", None, True)


@pytest.mark.parametrize(
    "choice, kind, allowed",
    [
        ("auto", "auto", None),
        ("none", "none", None),
        ("required", "required", None),
        ({"type": "function", "function": {"name": "clock"}}, "required", ("clock",)),
        ({"type": "custom", "custom": {"name": "note"}}, "required", ("note",)),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [
                        {"type": "function", "function": {"name": "weather"}},
                        {"type": "custom", "custom": {"name": "note"}},
                    ],
                },
            },
            "auto",
            ("weather", "note"),
        ),
    ],
)
def test_tool_choice(choice, kind, allowed):
    rule = asked(tools=[WEATHER, CLOCK, NOTE], tool_choice=choice, parallel_tool_calls=False).tools
    assert (rule.choice, rule.allowed, rule.parallel) == (kind, allowed, False)


def test_the_older_names():
    functions = [WEATHER["function"], CLOCK["function"]]
    assert asked(functions=functions).tools.choice == "auto"
    assert asked(functions=functions, function_call="none").tools.choice == "none"
    rule = asked(functions=functions, function_call={"name": "clock"}).tools
    assert (rule.choice, rule.allowed, rule.parallel) == ("required", ("clock",), False)
    assert rule.tools[0].field == "functions[0].parameters"


def test_no_tools():
    for fields in (
        {},
        {"tools": []},
        {"tools": None, "tool_choice": "auto"},
        {"functions": [], "function_call": "none"},
    ):
        assert asked(**fields).tools is None


def test_the_template_sees_the_tools():
    assert [tool["function"]["name"] for tool in asked(tools=[WEATHER, CLOCK]).prompts[0].tools] == ["weather", "clock"]
    assert asked(tools=[WEATHER], tool_choice="none").prompts[0].tools == ()


@pytest.mark.parametrize(
    "fields, thinks, kwargs",
    [
        ({"reasoning_effort": "none"}, False, {"reasoning_effort": "none"}),
        ({"reasoning_effort": "high"}, True, {"reasoning_effort": "high"}),
        ({"reasoning_effort": 0.5}, True, {"reasoning_effort": 0.5}),
        ({"reasoning": {"enabled": False}}, False, {}),
        ({"reasoning": {"enabled": True}}, True, {}),
        ({"reasoning": {"effort": "low"}}, True, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "low", "enabled": False}}, False, {"reasoning_effort": "low"}),
        ({"reasoning": {"max_tokens": 9}}, None, {}),
        ({"reasoning": {}}, None, {}),
        ({"reasoning_effort": None}, None, {}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "max", "thinking": True}},
            True,
            {"reasoning_effort": "max", "thinking": True},
        ),
    ],
)
def test_effort(fields, thinks, kwargs):
    (prompt,) = asked(**fields).prompts
    assert (prompt.thinks, prompt.template_kwargs) == (thinks, kwargs)


@pytest.mark.parametrize(
    "fields, most",
    [
        ({}, None),
        ({"max_thinking_tokens": 7}, 7),
        ({"max_thinking_tokens": 0}, 0),
        ({"reasoning": {"max_tokens": 7}}, 7),
        ({"custom_params": {"thinking_budget": 7, "other": 1}}, 7),
        ({"max_thinking_tokens": 7, "reasoning": {"max_tokens": 7}, "custom_params": {}}, 7),
    ],
)
def test_limits_of_thoughts(fields, most):
    assert asked(**fields).max_thinking_tokens == most


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"max_thinking_tokens": -1}, "max_thinking_tokens"),
        ({"max_thinking_tokens": 1.5}, "max_thinking_tokens"),
        ({"reasoning": {"max_tokens": "7"}}, "reasoning.max_tokens"),
        ({"max_thinking_tokens": 7, "reasoning": {"max_tokens": 8}}, "reasoning.max_tokens"),
        ({"max_thinking_tokens": 7, "custom_params": {"thinking_budget": 8}}, "custom_params.thinking_budget"),
    ],
)
def test_limits_of_thoughts_that_can_t_be(fields, param):
    assert error(post(make_app(), CHAT, {**HELLO, **fields}), 400)["param"] == param


def test_where_thoughts_go():
    assert (asked().separate_reasoning, asked().stream_reasoning) == (True, True)
    ask = asked(separate_reasoning=False, stream_reasoning=False)
    assert (ask.separate_reasoning, ask.stream_reasoning) == (False, False)


# What comes back.


def test_a_pure_call():
    response = answer(make_app(EchoClient(says(CALL))), CHAT, {**HELLO, "tools": [WEATHER]})
    (choice,) = response["choices"]
    (call,) = choice["message"].pop("tool_calls")
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None}
    assert choice["finish_reason"] == "tool_calls"
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}


def test_a_streamed_call():
    parts = chunks(make_app(EchoClient(says(CALL))), CHAT, {**HELLO, "tools": [WEATHER], "tool_choice": "required"})
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    (first,) = deltas[1]["tool_calls"]
    assert first.pop("id").startswith("call_")
    assert first == {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
    fragments = [delta["tool_calls"][0] for delta in deltas[2:-1]]
    assert all(part.keys() == {"index", "function"} for part in fragments) and len(fragments) > 2
    assert "".join(part["function"]["arguments"] for part in fragments) == ARGUMENTS
    assert deltas[-1] == {} and parts[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_thoughts_come_under_both_names_and_are_counted():
    app = make_app(EchoClient(says("<think>why</think>so")), text=ByteText(THINKING))
    response = answer(app, CHAT, HELLO)
    message = response["choices"][0]["message"]
    assert (message["reasoning_content"], message["reasoning"], message["content"]) == ("why", "why", "so")
    assert response["usage"]["completion_tokens_details"] == {"reasoning_tokens": len("<think>why</think>")}
    deltas = [part["choices"][0]["delta"] for part in chunks(app, CHAT, HELLO)]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "why"
    assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in deltas)
    message = answer(app, CHAT, {**HELLO, "separate_reasoning": False})["choices"][0]["message"]
    assert message["content"] == "<think>why</think>so" and "reasoning_content" not in message


def test_nothing_but_thoughts():
    app = make_app(EchoClient(says("<think>why")), text=ByteText(THINKING))
    message = answer(app, CHAT, HELLO)["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == (None, "why")


def test_functions_answer_by_their_older_name():
    body = {**HELLO, "functions": [WEATHER["function"]]}
    app = make_app(EchoClient(says(CALL)))
    (choice,) = answer(app, CHAT, body)["choices"]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": ARGUMENTS}
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]
    deltas = [part["choices"][0]["delta"] for part in chunks(app, CHAT, body)]
    assert deltas[1]["function_call"] == {"name": "weather", "arguments": ""}


def test_custom_calls():
    said = '<tool_call>{"name": "note", "arguments": {"input": "a\\nb"}}</tool_call>'
    app = make_app(EchoClient(says(said)))
    body = {**HELLO, "tools": [NOTE]}
    (call,) = answer(app, CHAT, body)["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["custom"]) == ("custom", {"name": "note", "input": "a\nb"})
    deltas = [part["choices"][0]["delta"] for part in chunks(app, CHAT, body)]
    assert deltas[1]["tool_calls"][0]["custom"] == {"name": "note", "input": ""}
    assert deltas[2]["tool_calls"] == [{"index": 0, "custom": {"input": "a\nb"}}]


def test_logprobs_ride_on_whatever_carries_their_tokens():
    body = {**HELLO, "tools": [WEATHER], "logprobs": True}
    app = make_app(EchoClient(says(f"a{CALL}")))
    whole = answer(app, CHAT, body)
    parts = [part["choices"][0] for part in chunks(app, CHAT, body)]
    said = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
    assert said == whole["choices"][0]["logprobs"]["content"]
    assert len(said) == whole["usage"]["completion_tokens"] == len(f"a{CALL}".encode()) + 1


def test_every_choice_has_its_own_calls():
    choices = answer(make_app(EchoClient(says(CALL))), CHAT, {**HELLO, "tools": [WEATHER], "n": 3})["choices"]
    ids = {choice["message"]["tool_calls"][0]["id"] for choice in choices}
    assert len(ids) == 3


# History.


def test_history():
    messages = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
                {"id": "c2", "type": "custom", "custom": {"name": "note", "input": 'a"b'}},
            ],
        },
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        {"role": "assistant", "reasoning_content": "hm"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "f", "content": "5"},
    ]
    prompt: ChatPrompt = asked(messages=messages).prompts[0]
    calls = [call["function"] for call in prompt.messages[1]["tool_calls"]]
    assert calls == [{"name": "f", "arguments": "{}"}, {"name": "note", "arguments": '{"input":"a\\"b"}'}]
    assert prompt.messages[3] == {"role": "assistant", "content": None, "reasoning_content": "hm"}
    assert prompt.messages[4]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


@pytest.mark.parametrize(
    "sent, told",
    [
        ('{"a": "f', "{}"),
        ('{"a": 1, "b": [2, "x', '{"a": 1, "b": [2]}'),
        ("{", "{}"),
        ("[1]", "[1]"),
        ("none", "none"),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda text: text[:20],
)
def test_arguments_of_history_may_be_broken(sent, told):
    prompt: ChatPrompt = asked(**called(sent)).prompts[0]
    assert prompt.messages[1]["tool_calls"][0]["function"]["arguments"] == told
    post(make_app(), CHAT, {**HELLO, **called(sent)}).raise_for_status()


@pytest.mark.parametrize("most", range(1, len(CALL), 3))
def test_an_answer_cut_by_length_is_accepted_as_history(most):
    body = {**HELLO, "tools": [WEATHER], "tool_choice": "required", "max_tokens": most}
    app = make_app(EchoClient(says(CALL)))
    message = answer(app, CHAT, body)["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "4"} for call in message.get("tool_calls", ())]
    going_on = {"messages": [*HELLO["messages"], message, *results, {"role": "user", "content": "go on"}]}
    assert answer(app, CHAT, {**going_on, "tools": [WEATHER]})


# What is refused.


def called(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}


def with_format(syntax: str, definition: str) -> dict[str, Any]:
    format = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    return {"tools": [{"type": "custom", "custom": {"name": "n", "format": format}}]}


def with_parameters(parameters: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


def choosing(choice: Any) -> dict[str, Any]:
    return {"tools": [WEATHER], "tool_choice": choice}


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        (with_parameters({"type": "array", "items": {}}), "tools[0].function.parameters.type"),
        (with_parameters({"type": None}), "tools[0].function.parameters.type"),
        (with_parameters({"type": ["object", "null"]}), "tools[0].function.parameters.type"),
        ({"functions": [{"name": "f", "parameters": {"type": "string"}}]}, "functions[0].parameters.type"),
        ({"tools": "all"}, "tools"),
        (with_format("lark", "start: x"), "tools[0].custom.format.grammar.syntax"),
        (with_format("regex", ""), "tools[0].custom.format.grammar.definition"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "n", "format": {"type": "grammar"}}}]},
            "tools[0].custom.format.grammar",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        (choosing("always"), "tool_choice"),
        (choosing({"type": "function"}), "tool_choice.function"),
        (choosing({"type": "function", "function": {"name": "no"}}), "tool_choice.function.name"),
        (choosing({"type": "custom", "custom": {"name": "weather"}}), "tool_choice.custom.name"),
        (choosing({"type": "allowed_tools"}), "tool_choice.allowed_tools"),
        (
            choosing({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
            "tool_choice.allowed_tools.tools",
        ),
        (
            choosing({
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "no"}}]},
            }),
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        ({"functions": [{"name": "f"}, {"name": "f"}]}, "functions[1].name"),
        ({"functions": [{"name": "f"}], "tools": [WEATHER]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call.name"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": True}, "reasoning_effort"),
        ({"reasoning_effort": 1.0}, "reasoning_effort"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"effort": "none", "enabled": True}}, "reasoning.enabled"),
        ({"separate_reasoning": "no"}, "separate_reasoning"),
        (
            {"tools": [WEATHER], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ({"tools": [WEATHER], "tool_choice": "required", "ebnf": "root ::= x"}, "ebnf"),
    ],
    ids=lambda value: str(value)[:80],
)  # fmt: skip
def test_refused(fields, param):
    refused(CHAT, {**HELLO, **fields}, param)


def test_a_schema_that_the_engine_refuses():
    client = EchoClient(refuse=lambda kind, text: {"reason": "no city", "place": "/x"} if "city" in text else {})
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    fault = error(post(make_app(client), CHAT, {**HELLO, "tools": [CLOCK, strict]}), 400)
    assert fault["param"] == "tools[1].function.parameters"
    assert "no city" in fault["message"] and "/x" in fault["message"] and not client.requests


# The tokens route.


def test_tokens_of_a_conversation_with_tools():
    text = ByteText()
    app = make_app(text=text)
    body = {"messages": HELLO["messages"], "tools": [WEATHER], "reasoning_effort": "none"}
    assert post(app, "/tokenize", body).status_code == 200
    (chat,) = text.chats
    assert chat.tools[0]["function"]["name"] == "weather" and chat.thinks is False
    assert error(post(app, "/tokenize", {**body, "tools": [{"type": "x"}]}), 400)["param"] == "tools[0].type"


# The official client.


class City(BaseModel):
    city: str


@pytest.fixture
def official():
    """A client of a server that says what is put into the list."""
    said: list[str] = []
    app = make_app(EchoClient(lambda request, choice: says(said[0])(request, choice)), text=ByteText(THINKING))
    with (
        serving(app) as live,
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="k", http_client=httpx.Client(trust_env=False)) as client,
    ):
        yield client, said


def test_its_parse_with_a_model_and_with_tools(official):
    client, said = official
    said[:] = ['<think>hm</think>{"city": "Jülich"}']
    parsed = client.chat.completions.parse(model="echo", messages=HELLO["messages"], response_format=City)
    assert parsed.choices[0].message.parsed == City(city="Jülich")
    said[:] = [CALL]
    tool = openai.pydantic_function_tool(City, name="weather")
    parsed = client.chat.completions.parse(model="echo", messages=HELLO["messages"], tools=[tool])
    assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == City(city="Jülich")


def test_its_stream_helper(official):
    client, said = official
    said[:] = [f"Sure. {CALL}\n{CALL}"]
    with client.chat.completions.stream(model="echo", messages=HELLO["messages"], tools=[WEATHER]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion().choices[0]
    assert [event.arguments for event in done] == [ARGUMENTS, ARGUMENTS]
    assert final.finish_reason == "tool_calls" and final.message.content == "Sure. "
    assert [call.function.name for call in final.message.tool_calls] == ["weather", "weather"]
    assert len({call.id for call in final.message.tool_calls}) == 2
