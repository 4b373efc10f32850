"""What goes into a response: items of every text kind, instructions, earlier responses, tools; and every 4xx by its place."""

from __future__ import annotations

import json

import pytest

from radixmill.front.api.openai.responses.items import Reading, read_items, to_messages
from radixmill.front.api.openai.responses.tools import is_plain
from radixmill.front.session.ask import ChatPrompt
from tests.fakes import EchoClient
from tests.front.kit import call, error, install, make_app, make_front, post, says
from tests.front.responses_kit import HI, NOTE, PATH, WEATHER, conforms, get, whole

APP, FRONT = make_front()


def messages(items) -> list[dict]:
    return to_messages(read_items(items, (), lambda id: None, Reading(strict=False)))


class Prompts:
    """The prompts that a session renders, as messages."""

    def __init__(self, session) -> None:
        self.seen: list[ChatPrompt] = []
        self._encode = session.text.encode_chat
        session.text.encode_chat = self

    def __call__(self, chat: ChatPrompt):
        self.seen.append(chat)
        return self._encode(chat)

    def last(self) -> list[tuple[str, object]]:
        return [(message["role"], message["content"]) for message in self.seen[-1].messages]


def fresh(said: str = "Hello"):
    install(FRONT, EchoClient(says(said)))
    return Prompts(FRONT.session)


def test_a_string_is_a_users_message():
    prompts = fresh()
    whole(APP, HI)
    assert prompts.last() == [("user", "hi")]


CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"place":"Rome"}'}


def test_items_of_every_kind():
    items = [
        {"role": "system", "content": "s"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "look", "annotations": [], "logprobs": []}],
        },
        CALL,
        {"type": "custom_tool_call", "call_id": "c2", "name": "note", "input": "milk"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noted"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": "yes"},
    ]  # fmt: skip
    assert messages(items) == [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": "look",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"place":"Rome"}'}},
                {"id": "c2", "type": "function", "function": {"name": "note", "arguments": '{"input":"milk"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny", "name": "weather"},
        {"role": "tool", "tool_call_id": "c2", "content": "noted", "name": "note"},
        {"role": "assistant", "content": "no"},
        {"role": "assistant", "content": "yes"},
    ]


def test_thoughts_after_words_begin_another_turn_and_thoughts_of_nothing_say_nothing():
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    assert messages([CALL, thought]) == [
        {"role": "assistant", "content": None, "tool_calls": messages([CALL])[0]["tool_calls"]},
        {"role": "assistant", "content": None, "reasoning_content": "hm"},
    ]
    assert messages([{"type": "reasoning", "summary": []}]) == []


def test_instructions_stand_first_in_one_message_with_a_systems():
    prompts = fresh()
    whole(APP, {**HI, "instructions": "Be kind."})
    assert prompts.last() == [("system", "Be kind."), ("user", "hi")]
    whole(APP, {"input": [{"role": "developer", "content": "Be short."}], "instructions": "Be kind."})
    assert prompts.last() == [("developer", "Be kind.\n\nBe short.")]


def test_an_earlier_response_comes_first_without_its_instructions():
    prompts = fresh("I am Bob")
    first = whole(APP, {"input": "who?", "instructions": "You are Bob."})
    second = whole(APP, {"input": "what?", "previous_response_id": first["id"]})
    assert second["previous_response_id"] == first["id"] and second["instructions"] is None
    assert prompts.last() == [("user", "who?"), ("assistant", "I am Bob"), ("user", "what?")]
    whole(APP, {"input": "and?", "previous_response_id": second["id"]})
    assert len(prompts.last()) == 5
    whole(APP, {"previous_response_id": first["id"]})
    assert prompts.last() == [("user", "who?"), ("assistant", "I am Bob")]


def test_a_reference_is_the_item_that_was_kept():
    prompts = fresh("I am Bob")
    first = whole(APP, {"input": "who?"})
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    for given in (reference, {"id": reference["id"]}):
        whole(APP, {"input": [given, {"role": "user", "content": "sure?"}]})
        assert prompts.last() == [("assistant", "I am Bob"), ("user", "sure?")]


def test_thoughts_of_earlier_turns_stay_out_where_only_the_current_turn_is_wanted():
    prompts = fresh()
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    items = [thought, {"role": "user", "content": "a"}, thought, CALL]
    items += [{"type": "function_call_output", "call_id": "c1", "output": "x"}]
    for context, kept in (("current_turn", 1), ("all_turns", 2), ("auto", 2)):
        whole(APP, {"input": items, "reasoning": {"context": context}})
        assert sum("reasoning_content" in message for message in prompts.seen[-1].messages) == kept


def test_the_template_hears_of_effort_and_verbosity():
    prompts = fresh()
    whole(APP, {**HI, "reasoning": {"effort": "high"}, "text": {"verbosity": "low"}, "chat_template_kwargs": {"x": 1}})
    told = prompts.seen[-1].template_kwargs
    assert {name: told[name] for name in ("reasoning_effort", "verbosity", "x")} == {
        "reasoning_effort": "high",
        "verbosity": "low",
        "x": 1,
    }
    whole(APP, {**HI, "reasoning": {"effort": "none"}})
    assert prompts.seen[-1].thinks is False


LONG = [
    {"role": "system", "content": "rules"},
    *({"role": role, "content": c * 100} for c in "abc" for role in ("user", "assistant")),
    {"role": "user", "content": "last"},
]


def test_what_does_not_fit_is_refused_or_the_oldest_turns_are_left_out():
    prompts = fresh()
    fault = error(post(APP, PATH, {"input": LONG}), 400)
    assert (fault["code"], fault["param"]) == ("context_length_exceeded", "input")
    whole(APP, {"input": LONG, "truncation": "auto"})
    assert [str(content)[0] for _, content in prompts.last()] == ["r", "b", "b", "c", "c", "l"]
    whole(APP, {"input": LONG, "truncation": "auto", "max_output_tokens": 200})
    assert [str(content)[0] for _, content in prompts.last()] == ["r", "c", "c", "l"]
    whole(APP, {"input": LONG[:3], "truncation": "auto"})
    assert len(prompts.last()) == 3
    huge = [*LONG, {"role": "user", "content": "x" * 600}]
    fault = error(post(APP, PATH, {"input": huge, "truncation": "auto"}), 400)
    assert fault["code"] == "context_length_exceeded"
    fault = error(post(APP, PATH, {**HI, "max_output_tokens": 510}), 400)
    assert (fault["code"], fault["param"]) == ("context_length_exceeded", "max_output_tokens")
    assert "lower max_output_tokens." in fault["message"]


def test_an_output_whose_call_was_cut_goes_with_it():
    prompts = fresh()
    items = [
        {"role": "user", "content": "a" * 300}, CALL, {"role": "user", "content": "b" * 200},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]  # fmt: skip
    whole(APP, {"input": items, "truncation": "auto"})
    assert prompts.last() == [("user", "b" * 200)]


def test_tools_reach_the_template_and_a_choice_is_understood():
    prompts = fresh()
    whole(APP, {**HI, "tools": [WEATHER, NOTE]})
    weather, note = prompts.seen[-1].tools
    assert weather == {
        "type": "function",
        "function": {name: WEATHER[name] for name in ("name", "description", "parameters")},
    }
    assert note["function"]["parameters"]["required"] == ["input"]
    tools = {**HI, "tools": [WEATHER, NOTE]}
    for choice, shown in (
        ("none", []),
        ("required", ["weather", "note"]),
        ({"type": "custom", "name": "note"}, ["note"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}, ["weather"]),
    ):
        whole(APP, {**tools, "tool_choice": choice})
        assert [tool["function"]["name"] for tool in prompts.seen[-1].tools] == shown


def test_what_binds_the_answer_reaches_the_engine():
    client = EchoClient()
    install(FRONT, client)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for format, kind, text in (
        ({"type": "json_object"}, "json_object", ""),
        ({"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "json_schema", json.dumps(schema)),
        ({"type": "json_schema", "name": "n", "schema": schema}, "json_schema", json.dumps(schema)),
    ):
        assert whole(APP, {**HI, "text": {"format": format}})["text"]["format"] == format
        constraint = client.requests[-1].constraint
        assert constraint.kind == kind and (not text or json.loads(constraint.text) == json.loads(text))
    whole(APP, {**HI, "tools": [WEATHER], "tool_choice": "required"})
    assert client.requests[-1].constraint.kind == "structural_tag"
    whole(APP, {**HI, "tools": [WEATHER], "tool_choice": "none"})
    assert client.requests[-1].constraint is None


def test_where_strict_is_not_said_a_plain_schema_is_followed():
    plain = {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/b"}]}}, "$defs": {}}
    assert is_plain(plain) and is_plain({})
    for other in (
        {"not": {}},
        {"properties": {"a": {"oneOf": []}}},
        {"items": {"pattern": "a"}},
        {"anyOf": [{"if": 1}]},
        {"anyOf": 5},
        {"properties": []},
    ):
        assert not is_plain(other)
    tools = [
        {"type": "function", "name": name, "parameters": schema} for name, schema in (("a", plain), ("b", {"not": {}}))
    ]
    assert [tool["strict"] for tool in whole(APP, {**HI, "tools": tools})["tools"]] == [True, False]


def test_hosted_tools_may_be_dropped():
    app = make_app(unsupported_tools="drop")
    body = {"model": "echo", **HI, "tools": [{"type": "web_search"}, WEATHER, {"type": "mcp", "server_label": "é\n"}]}
    response = post(app, PATH, body)
    assert [tool["name"] for tool in response.json()["tools"]] == ["weather"]
    assert response.headers["x-radixmill-ignored"] == "tools[0].web_search, tools[2].mcp"


def test_unknown_fields_inside_items_are_named_or_refused():
    body = {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a", "mood": 1}], "x": 2}],
        "tools": [{**WEATHER, "colour": "red"}],
        "fancy": 1,
    }
    named = post(make_app(), PATH, body).headers["x-radixmill-ignored"]
    assert named == "fancy, input[0].content[0].mood, input[0].x, tools[0].colour"
    for field, param in (("input", "input[0].content[0].mood"), ("tools", "tools[0].colour")):
        fault = error(post(make_app(strict_fields=True), PATH, {**HI, field: body[field]}), 400)
        assert fault["param"] == param
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    response = post(make_app(), PATH, {"input": [sealed, {"role": "user", "content": "a"}]})
    assert response.headers["x-radixmill-ignored"] == "input[0].encrypted_content"


def test_tokens_are_counted():
    app = make_app()
    counted = post(app, f"{PATH}/input_tokens", {**HI, "instructions": "abc"})
    conforms("TokenCountsResource", counted.json())
    assert counted.json()["input_tokens"] == whole(app, {**HI, "instructions": "abc"})["usage"]["input_tokens"]
    assert error(post(app, f"{PATH}/input_tokens", {"model": "no"}), 404)["param"] == "model"


def item(**fields):
    return {"input": [fields]}


def parts(*given, role="user"):
    return item(role=role, content=list(given))


TOOL = {"type": "function", "name": "f", "parameters": {}}
CASES = [
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": None}, "input"),
    ({"input": 3}, "input"),
    ({"input": [3]}, "input[0]"),
    ({"input": ["a"]}, "input[0]"),
    (item(), "input[0].role"),
    (item(role="robot", content="a"), "input[0].role"),
    (item(role="user"), "input[0].content"),
    (item(role="user", content=3), "input[0].content"),
    (item(role="user", content=[]), "input[0].content"),
    (parts(3), "input[0].content[0]"),
    (parts({"text": "a"}), "input[0].content[0].type"),
    (parts({"type": "input_text"}), "input[0].content[0].text"),
    (parts({"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "x"}), "input[0].content[1].type"),
    (parts({"type": "input_file", "file_id": "x"}), "input[0].content[0].type"),
    (parts({"type": "input_audio"}), "input[0].content[0].type"),
    (parts({"type": "refusal", "refusal": "a"}), "input[0].content[0].type"),
    (parts({"type": "refusal"}, role="assistant"), "input[0].content[0].refusal"),
    (item(type="web_search_call", id="x", status="completed"), "input[0].type"),
    (item(type="computer_call_output", call_id="x", output={}), "input[0].type"),
    (item(type="image_generation_call"), "input[0].type"),
    (item(type=3), "input[0].type"),
    (item(type="item_reference", id="nope"), "input[0].id"),
    (item(type="item_reference"), "input[0].id"),
    (item(type="function_call", call_id="c", name="f"), "input[0].arguments"),
    (item(**CALL, namespace="n"), "input[0].namespace"),
    (item(**CALL, caller={"type": "program"}), "input[0].caller"),
    (item(type="function_call_output", call_id="nope", output="a"), "input[0].call_id"),
    (item(type="function_call_output", call_id=None, output="a"), "input[0].call_id"),
    ({"input": [CALL, {"type": "function_call_output", "call_id": "c1", "output": 3}]}, "input[1].output"),
    (
        {"input": [CALL, {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_image"}]}]},
        "input[1].output[0].type",
    ),
    (item(type="custom_tool_call_output", call_id="nope", output="a"), "input[0].call_id"),
    (item(type="reasoning", id="x"), "input[0].summary"),
    (item(type="reasoning", summary=[], content=[{"type": "output_text", "text": "a"}]), "input[0].content[0].type"),
    (item(type="reasoning", summary=[{"type": "summary_text"}]), "input[0].summary[0].text"),
    ({**HI, "previous_response_id": "resp_nope"}, "previous_response_id"),
    ({**HI, "conversation": "conv_1"}, "conversation"),
    ({**HI, "prompt": {"id": "p"}}, "prompt"),
    ({**HI, "context_management": [{"type": "compaction"}]}, "context_management"),
    ({**HI, "moderation": {"model": "x"}}, "moderation"),
    ({**HI, "instructions": ["a"]}, "instructions"),
    ({**HI, "stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({**HI, "background": True, "store": False}, "store"),
    ({**HI, "include": ["everything"]}, "include[0]"),
    ({**HI, "include": "message.output_text.logprobs"}, "include"),
    ({**HI, "max_output_tokens": 15}, "max_output_tokens"),
    ({**HI, "max_output_tokens": "many"}, "max_output_tokens"),
    ({**HI, "top_logprobs": 21}, "top_logprobs"),
    ({**HI, "temperature": 3}, "temperature"),
    ({**HI, "truncation": "middle"}, "truncation"),
    ({**HI, "metadata": {"a": 1}}, "metadata.a"),
    ({**HI, "rid": "two words"}, "rid"),
    ({**HI, "reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({**HI, "reasoning": {"summary": "long"}}, "reasoning.summary"),
    ({**HI, "reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ({**HI, "text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({**HI, "text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({**HI, "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ({**HI, "text": {"verbosity": "loud"}}, "text.verbosity"),
    ({**HI, "chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
    ({**HI, "tools": [3]}, "tools[0]"),
    ({**HI, "tools": [[]]}, "tools[0]"),
    ({"input": [{"type": {"type": "text"}, "role": "user", "content": "a"}]}, "input[0].type"),
    ({"input": [{"type": [], "role": "user", "content": "a"}]}, "input[0].type"),
    ({**HI, "tools": [{}]}, "tools[0].type"),
    ({**HI, "tools": [WEATHER, {"type": "web_search"}]}, "tools[1].type"),
    *(({**HI, "tools": [{"type": kind}]}, "tools[0].type") for kind in
      ("file_search", "computer", "code_interpreter", "mcp", "image_generation", "shell", "local_shell", "apply_patch",
       "namespace", "tool_search", "web_search_preview", "computer_use_preview")),
    ({**HI, "tools": [{"type": "function"}]}, "tools[0].name"),
    ({**HI, "tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({**HI, "tools": [TOOL, TOOL]}, "tools[0].name"),
    ({**HI, "tools": [{**TOOL, "parameters": []}]}, "tools[0].parameters"),
    *(({**HI, "tools": [{**TOOL, "parameters": {"type": kind}}]}, "tools[0].parameters.type") for kind in
      ("array", "string", None, ["object", "null"], 3)),
    ({**HI, "tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({**HI, "tools": [{**TOOL, "allowed_callers": ["programmatic"]}]}, "tools[0].allowed_callers"),
    ({**HI, "tools": [{**NOTE, "format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.definition"),
    ({**HI, "tools": [{**NOTE, "format": {"type": "grammar", "syntax": "abnf"}}]}, "tools[0].format.syntax"),
    ({**HI, "tool_choice": "required"}, "tool_choice"),
    ({**HI, "tool_choice": "sometimes"}, "tool_choice"),
    ({**HI, "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({**HI, "tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    ({**HI, "tools": [TOOL], "tool_choice": {"type": "custom", "name": "f"}}, "tool_choice.name"),
    ({**HI, "tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.mode"),
    ({**HI, "tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools"),
    (
        {**HI, "tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
        "tool_choice.tools[0].type",
    ),
]  # fmt: skip


@pytest.mark.parametrize("body, param", CASES, ids=lambda value: json.dumps(value)[:80])
def test_what_is_wrong_is_named(body, param):
    client = EchoClient()
    install(FRONT, client)
    for path in (PATH, f"{PATH}/input_tokens") if "tools" in body or "input" in param else (PATH,):
        fault = error(post(APP, path, body), 400)
        assert (fault["type"], fault["param"]) == ("invalid_request_error", param), fault
        assert "`" not in fault["message"] and fault["message"].endswith(".")
    assert not client.requests and FRONT.session.live == 0


def test_a_refusal_names_the_type():
    fault = error(post(APP, PATH, {**HI, "tools": [{"type": "web_search"}]}), 400)
    assert "web_search" in fault["message"] and "function" in fault["message"]
    fault = error(post(APP, PATH, parts({"type": "input_image"})), 400)
    assert "input_image" in fault["message"]
    fault = error(post(APP, PATH, {**HI, "previous_response_id": "resp_nope"}), 400)
    assert fault["code"] == "previous_response_not_found" and "resp_nope" in fault["message"]


def test_an_unknown_model_is_not_found_before_anything_is_rendered():
    fault = error(post(APP, PATH, {**HI, "model": "gpt-9"}), 404)
    assert (fault["code"], fault["param"]) == ("model_not_found", "model")


def test_the_conversation_of_a_response_can_be_read_again():
    fresh()
    items = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, CALL]
    items += [{"type": "function_call_output", "call_id": "c1", "output": "sunny"}, {"role": "user", "content": "c"}]
    id = whole(APP, {"input": items})["id"]
    page = get(APP, f"{PATH}/{id}/input_items", order="asc")
    conforms("ResponseItemList", page)
    assert [entry["type"] for entry in page["data"]] == [
        "message", "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert all(entry["id"] and entry["status"] == "completed" for entry in page["data"])
    newest = get(APP, f"{PATH}/{id}/input_items", limit=2)
    assert [entry["id"] for entry in newest["data"]] == [entry["id"] for entry in page["data"][:2:-1]]
    assert newest["has_more"] and newest["last_id"] == page["data"][3]["id"]
    rest = get(APP, f"{PATH}/{id}/input_items", after=newest["last_id"])
    assert [entry["id"] for entry in rest["data"]] == [entry["id"] for entry in page["data"][2::-1]]
    assert not rest["has_more"]
    for query, param in (
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "x"}, "after"),
    ):
        assert error(call(APP, "GET", f"{PATH}/{id}/input_items", params=query), 400)["param"] == param
