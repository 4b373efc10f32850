"""What the Messages API makes of a body: the Ask behind it, and a 400 that names the place where it can't."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from radixmill.core.request import Constraint
from radixmill.front.api.anthropic.body import HINTS, REFUSED, MessagesBody
from radixmill.front.session import Ask, ChatPrompt, Content, End, Sampling, ToolRule
from tests.front.anthropic_kit import COUNT, HI, MESSAGES, TOOL, fault, telling_front
from tests.front.kit import call, make_app, make_front, post

APP, FRONT = make_front()
SESSION = telling_front(FRONT)
SESSION.told = [(Content(0, "yes"), End(0, "stop"))]


@pytest.fixture(autouse=True)
def nothing_asked_yet() -> None:
    SESSION.asks.clear()


def asked(**fields: Any) -> Ask:
    """The Ask of a body."""
    response = post(APP, MESSAGES, {**HI, **fields})
    assert response.status_code == 200, response.text
    return SESSION.asks.pop()


def prompt(**fields: Any) -> ChatPrompt:
    (made,) = asked(**fields).prompts
    assert isinstance(made, ChatPrompt)
    return made


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {**user(*content), "role": "assistant"}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def use(id: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "weather", "input": input}


def result(id: str, content: Any = "sun", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def test_messages_become_turns():
    made = prompt(
        system=[text("S1", cache_control={"type": "ephemeral"}), text("S2")],
        messages=[
            {"role": "system", "content": "S3"},
            user("q1"),
            user(text("q2"), text("q3", citations=None)),
            assistant(
                {"type": "thinking", "thinking": "hm", "signature": "x"}, text("let me see"), use("t1", city="Oslo")
            ),
            user(result("t1"), text("go on")),
        ],
    )
    assert made.messages == (
        {"role": "system", "content": [text("S1"), text("S2"), text("S3")]},
        {"role": "user", "content": [text("q1"), text("q2"), text("q3")]},
        {
            "role": "assistant",
            "content": "let me see",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
            ],
        },
        {"role": "tool", "content": "sun", "tool_call_id": "t1", "name": "weather"},
        {"role": "user", "content": "go on"},
    )
    assert made.add_generation_prompt and not made.continue_final_message


@pytest.mark.parametrize(
    "content, more, said",
    [
        ("sun", {}, "sun"),
        ([text("sun"), text("rain")], {}, "sun\nrain"),
        ([], {}, ""),
        (None, {}, ""),
        ("no such city", {"is_error": True}, "Error: no such city"),
        ("sun", {"is_error": False}, "sun"),
    ],
)
def test_results_of_tools(content, more, said):
    made = prompt(
        messages=[user("q"), assistant(use("t1"), use("t2")), user(result("t2", content, **more), result("t1"))]
    )
    calls, *results = made.messages[1:]
    assert calls["content"] is None and [call["id"] for call in calls["tool_calls"]] == ["t1", "t2"]
    assert [(turn["tool_call_id"], turn["content"]) for turn in results] == [("t2", said), ("t1", "sun")]


def test_the_model_goes_on_with_a_last_message_of_the_assistant():
    made = prompt(messages=[user("q"), assistant("The answer is (")])
    assert made.continue_final_message and not made.add_generation_prompt
    made = prompt(messages=[user("q"), assistant("")])
    assert made.messages == ({"role": "user", "content": "q"},) and made.add_generation_prompt


def test_sampling_and_the_rest():
    ask = asked(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"3": 2},
        stop_token_ids=[5],
        min_tokens=1,
        ignore_eos=True,
        stop_sequences=["halt", "stop", "halt"],
        no_stop_trim=True,
        skip_special_tokens=False,
        seed=4,
        cache_salt="me",
        priority=2,
        rid="job",
    )
    assert ask.sampling == Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias={"3": 2.0},
        stop_token_ids=(5,),
        min_tokens=1,
        ignore_eos=True,
    )
    assert (ask.id, ask.max_tokens, ask.stop, ask.keep_stop, ask.skip_special_tokens) == (
        "job",
        9,
        ("halt", "stop"),
        True,
        False,
    )
    assert (ask.seed, ask.salts, ask.priority, ask.width) == (4, ("me",), 2, 1)


@pytest.mark.parametrize(
    "fields, kwargs",
    [
        ({}, {}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1025},
            {"thinking_budget": 1024},
        ),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "max"}),
        (
            {"output_config": {"effort": "low"}, "chat_template_kwargs": {"reasoning_effort": "high", "x": 1}},
            {"reasoning_effort": "high", "x": 1},
        ),
    ],
)
def test_what_the_template_is_told(fields, kwargs):
    assert prompt(**fields).template_kwargs == kwargs


@pytest.mark.parametrize(
    "thinking, thinks, most",
    [
        (None, None, None),
        ({"type": "adaptive"}, True, None),
        ({"type": "disabled"}, False, None),
        ({"type": "enabled", "budget_tokens": 1024}, True, 1024),
    ],
)
def test_whether_to_think_and_how_long(thinking, thinks, most):
    ask = asked(thinking=thinking, max_tokens=1025)
    assert (ask.prompts[0].thinks, ask.max_thinking_tokens) == (thinks, most)


def test_tools():
    ask = asked(
        tools=[
            {**TOOL, "strict": True, "cache_control": {"type": "ephemeral"}, "input_examples": [{"city": "Oslo"}]},
            {"type": "custom", "name": "now", "input_schema": {"type": "object"}, "eager_input_streaming": True},
        ]
    )
    assert isinstance(ask.tools, ToolRule) and (ask.tools.choice, ask.tools.allowed, ask.tools.parallel) == (
        "auto",
        None,
        True,
    )
    weather, now = ask.tools.tools
    assert (weather.field, now.field) == ("tools[0].input_schema", "tools[1].input_schema")
    assert weather.strict and weather.parameters == TOOL["input_schema"] and weather.description
    assert (now.name, now.description, now.strict) == ("now", "", False)
    (made,) = ask.prompts
    assert isinstance(made, ChatPrompt)
    assert made.tools[0]["function"]["parameters"] == {**TOOL["input_schema"], "examples": [{"city": "Oslo"}]}
    assert made.tools[1] == {
        "type": "function",
        "function": {"name": "now", "description": "", "parameters": {"type": "object"}},
    }


@pytest.mark.parametrize(
    "choice, rule",
    [
        ({"type": "auto"}, ("auto", None, True)),
        ({"type": "any"}, ("required", None, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", None, False)),
        ({"type": "tool", "name": "weather"}, ("required", ("weather",), True)),
        ({"type": "none"}, None),
    ],
)
def test_tool_choice(choice, rule):
    ask = asked(tools=[TOOL], tool_choice=choice)
    assert (ask.tools and (ask.tools.choice, ask.tools.allowed, ask.tools.parallel)) == rule
    assert bool(ask.prompts[0].tools) == (rule is not None)


@pytest.mark.parametrize("choice", [None, {"type": "auto"}, {"type": "none"}])
def test_without_tools_there_is_no_rule(choice):
    assert asked(tools=[], tool_choice=choice).tools is None


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_a_schema_of_the_answer(field):
    schema = {"type": "object", "properties": {"é": {"type": "integer"}}}
    format = {"type": "json_schema", "schema": schema}
    ask = asked(**{field: {"format": format} if field == "output_config" else format})
    assert isinstance(ask.constraint, Constraint) and ask.constraint.kind == "json_schema"
    assert json.loads(ask.constraint.text) == schema and ask.constraint_field.startswith(field)


HINTED = {
    "cache_control": {"type": "ephemeral", "ttl": "1h"},
    "diagnostics": {"previous_message_id": None},
    "inference_geo": "eu",
    "metadata": {"user_id": "me"},
    "service_tier": "auto",
    "speed": "standard",
    "user_profile_id": "p",
    "tools[].eager_input_streaming": None,  # in test_tools
}


def test_hints_change_nothing():
    assert set(HINTED) == HINTS
    plain = asked(rid="x")
    for name, value in HINTED.items():
        if "[]" not in name:
            response = post(APP, MESSAGES, {**HI, "rid": "x", name: value})
            assert response.status_code == 200 and "x-radixmill-ignored" not in response.headers, name
            assert SESSION.asks.pop() == plain


def test_unknown_fields_are_named():
    body = {**HI, "tool_choic": 1, "messages": [user({**text("x"), "zap": 1})]}
    response = post(APP, MESSAGES, body)
    assert response.headers["x-radixmill-ignored"] == "messages[].content[].zap, tool_choic"
    assert "zap" in fault(post(make_app(strict_fields=True), MESSAGES, body), 400, "invalid_request_error")


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
FORMAT = {"type": "json_schema", "schema": {"type": "object"}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
    ({"messages": [user("x"), assistant("y"), user({"type": "text"})]}, "messages[2].content[0].text"),
    ({"messages": [user(text("x"), IMAGE)]}, "messages[0].content[1].type"),
    ({"messages": [user(DOCUMENT)]}, "messages[0].content[0].type"),
    ({"messages": [user({"type": "search_result"})]}, "messages[0].content[0].type"),
    ({"messages": [user("x"), assistant({"type": "redacted_thinking", "data": "x"})]}, "messages[1].content[0].type"),
    ({"messages": [user("x"), assistant({"type": "server_tool_use"})]}, "messages[1].content[0].type"),
    ({"messages": [user({"type": "thinking", "thinking": "x"})]}, "messages[0].content[0].type"),
    ({"messages": [user(use("t"))]}, "messages[0].content[0].type"),
    ({"messages": [user("x"), assistant(result("t"))]}, "messages[1].content[0].type"),
    ({"messages": [user("x"), assistant({"type": "thinking"}), user("y")]}, "messages[1].content[0].thinking"),
    ({"messages": [user("x"), assistant({"type": "tool_use"}), user("y")]}, "messages[1].content[0].id"),
    ({"messages": [user("x"), assistant({"type": "tool_use", "id": "t"})]}, "messages[1].content[0].input"),
    ({"messages": [user("x"), assistant({**use("t"), "name": None})]}, "messages[1].content[0].name"),
    ({"messages": [user("x"), assistant({**use("t"), "input": "{}"})]}, "messages[1].content[0].input"),
    ({"messages": [user("x"), assistant(use("t"), use("t"))]}, "messages[1].content[1].id"),
    ({"messages": [user("x"), assistant(use("t"))]}, "messages[1]"),
    ({"messages": [user("x"), assistant({"type": "thinking", "thinking": "hm"})]}, "messages[1]"),
    ({"messages": [user(result("t"))]}, "messages[0].content[0].tool_use_id"),
    ({"messages": [user(result("t")), assistant(use("t"))]}, "messages[0].content[0].tool_use_id"),
    ({"messages": [user({"type": "tool_result"})]}, "messages[0].content[0].tool_use_id"),
    (
        {"messages": [user("x"), assistant(use("t")), user(result("t", [text("x"), IMAGE]))]},
        "messages[2].content[0].content[1].type",
    ),
    ({"system": [IMAGE]}, "system[0].type"),
    ({"system": [text("x"), {"type": "text"}]}, "system[1].text"),
    ({"system": 3}, "system"),
    ({"temperature": 1.5}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"stop_sequences": "halt"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"stop_sequences": ["x"] * 33}, "stop_sequences"),
    ({"metadata": {"user_id": 3}}, "metadata.user_id"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1023}, "max_tokens": 4000}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1024}, "thinking.budget_tokens"),
    ({"thinking": {"type": "adaptive", "budget_tokens": 1024}}, "thinking.budget_tokens"),
    ({"tools": [{**TOOL, "name": "two words"}]}, "tools[0].name"),
    ({"tools": [{**TOOL, "name": "x" * 129}]}, "tools[0].name"),
    ({"tools": [{"input_schema": {"type": "object"}}]}, "tools[0].name"),
    ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "x", "input_schema": {"type": "string"}}]}, "tools[0].input_schema.type"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool", "name": "weather"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "weather"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"output_config": {"format": FORMAT}, "output_format": FORMAT}, "output_format"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
    ({"rid": "two words"}, "rid"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
]
COUNTED = {"messages", "system", "tools", "tool_choice", "chat_template_kwargs", *REFUSED}
SERVER_TOOLS = [
    "web_search_20250305",
    "bash_20250124",
    "computer_20250124",
    "text_editor_20250728",
    "code_execution_20250825",
]


@pytest.mark.parametrize("fields, place", BAD, ids=[f"{i}-{place}" for i, (_, place) in enumerate(BAD)])
def test_bad_bodies_name_the_place(fields, place):
    body = {key: value for key, value in {**HI, **fields}.items() if value is not None}
    message = fault(post(APP, MESSAGES, body), 400, "invalid_request_error")
    assert message.startswith(place) and not message[len(place)].isalnum(), message
    if re.split(r"[.\[]", place)[0] in COUNTED:
        assert fault(post(APP, COUNT, body), 400, "invalid_request_error") == message
    assert not SESSION.asks


def test_the_ends_of_ranges_are_taken():
    assert [asked(temperature=t).sampling.temperature for t in (0, 1)] == [0.0, 1.0]
    for low, most in ((1024, 1025), (2999, 3000)):
        asked(thinking={"type": "enabled", "budget_tokens": low}, max_tokens=most)
    assert asked(max_tokens=1).max_tokens == 1


@pytest.mark.parametrize("kind", SERVER_TOOLS)
def test_server_tools_are_refused_by_their_type(kind):
    message = fault(
        post(APP, MESSAGES, {**HI, "tools": [TOOL, {"type": kind, "name": "x"}]}), 400, "invalid_request_error"
    )
    assert message.startswith("tools[1].type") and kind in message


def test_threads_are_refused_in_the_words_that_clients_act_on():
    body = post(APP, MESSAGES, {**HI, "thread": {"type": "create"}}).json()
    assert body["error"]["type"] == "invalid_request_error" and body["error"]["message"].startswith("thread ")
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request"}


def test_server_tools_can_be_dropped():
    app = make_app(unsupported_tools="drop")
    mixed = {**HI, "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, TOOL]}
    for path in (MESSAGES, COUNT):
        response = post(app, path, mixed)
        assert response.status_code == 200, response.text
        assert "tools[0].web_search_20250305" in response.headers["x-radixmill-ignored"].split(", ")
    chosen = {**mixed, "tool_choice": {"type": "tool", "name": "web_search"}}
    assert fault(post(app, MESSAGES, chosen), 400, "invalid_request_error").startswith("tool_choice.name")
    twice = {**mixed, "tools": [*mixed["tools"], TOOL]}
    assert fault(post(app, MESSAGES, twice), 400, "invalid_request_error").startswith("tools[2].name")


def test_what_asks_for_nothing_is_let_through():
    for name, neutral in REFUSED.items():
        for value in (None, *neutral):
            assert post(APP, MESSAGES, {**HI, name: value}).status_code == 200


NESTS = [
    '"output_format": {"type": "json_schema", "schema": %s}',
    '"tools": [{"name": "x", "input_schema": {"type": "object", "properties": %s}}], "tool_choice": {"type": "any"}',
    '"chat_template_kwargs": %s',
]


@pytest.mark.parametrize("nest", NESTS)
def test_nothing_is_too_deep_for_an_answer(nest):
    """The depth at which decoders give up differs by a few from place to place; none of them may be a 500."""
    app, start = make_app(), json.dumps(HI)[:-1]
    for depth in (100, *range(930, 975), 100_000):
        inner = '{"a":' * depth + "{}" + "}" * depth
        raw = f"{start}, {nest % inner}}}"
        response = call(app, "POST", MESSAGES, content=raw, headers={"content-type": "application/json"})
        assert response.status_code in (200, 400), (depth, response.text)


def test_count_tokens():
    app = make_app()
    count = post(app, COUNT, {"model": "echo", "messages": [user("abc")]}).json()
    assert count == {"input_tokens": 5}
    used = post(app, MESSAGES, {**HI, "messages": [user("abc")]}).json()["usage"]
    assert used["input_tokens"] == count["input_tokens"]
    more = post(app, COUNT, {"model": "echo", "system": "be brief", "messages": [user("abc")]}).json()
    assert more["input_tokens"] == 5 + 1 + len("be brief")


def test_every_field_is_read():
    """What MessagesBody knows is honoured, a hint, or refused: nothing is swallowed."""
    known = {field.encode_name for field in msgspec.structs.fields(MessagesBody)}
    assert set(REFUSED) <= known and {name for name in HINTS if "[]" not in name} <= known
