"""POST /separate_reasoning and /parse_function_call: texts from elsewhere, by the served model's parser or a named one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from radixmill.front.dialects import FAMILIES, THINKING, Dialect
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.dialects.families import GptOss, Qwen3
from radixmill.front.dialects.proof import CALLS, PARAMETERS
from tests.fakes import ByteText, EchoClient
from tests.front.kit import CHAT, HELLO, answer, error, make_app, post, says

SEPARATE, PARSE = "/separate_reasoning", "/parse_function_call"
TOOLS = [{"type": "function", "function": {"name": name, "parameters": p}} for name, p in PARAMETERS.items()]
CALLED = [{"tool_index": i, "name": name, "parameters": json.dumps(given)} for i, (name, given) in enumerate(CALLS)]
HERMES = Qwen3.calls.all_written(CALLS)


def separated(text: str, dialect: Any = THINKING, **fields: Any) -> dict[str, Any]:
    return answer(make_app(text=ByteText(dialect)), SEPARATE, {"text": text, **fields})


def parsed(text: str, tools: Any = TOOLS, **fields: Any) -> dict[str, Any]:
    return answer(make_app(text=ByteText(THINKING)), PARSE, {"text": text, "tools": tools, **fields})


@pytest.mark.parametrize(
    "text, thoughts, said",
    [
        ("<think>why</think>so", "why", "so"),
        ("why</think>\n\nso", "why", "\n\nso"),  # the prompt had opened them
        ("<think>why", "why", ""),
        ("so", "", "so"),
        ("", "", ""),
        ("so <think>why</think>", "", "so <think>why</think>"),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
        (f"<think>why</think>{HERMES}", "why", HERMES),
    ],
)
def test_thoughts_apart(text, thoughts, said):
    assert separated(text) == {"reasoning_text": thoughts, "text": said}


def test_a_named_parser():
    text = "[[x]]why</think>so"
    assert separated(text, reasoning_parser="qwen3")["text"] == "so"
    assert separated(GptOss.example.split("<|start|>")[0], reasoning_parser="gpt-oss")["reasoning_text"] == "why"
    assert separated("why", reasoning_parser="step3") == {"reasoning_text": "why", "text": ""}  # always begins so
    assert separated("why", reasoning_parser="auto") == {"reasoning_text": "", "text": "why"}


def test_blocks_in_their_order():
    text = (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>c<|end|><|start|>assistant<|channel|>final<|message|>d"
    )
    one = separated(text, reasoning_parser="gpt-oss", return_blocks=True)
    assert [(block["type"], block["text"]) for block in one["blocks"]] == [
        ("reasoning", "a"),
        ("text", "b"),
        ("reasoning", "c"),
        ("text", "d"),
    ]
    assert (one["reasoning_blocks"], one["text_blocks"]) == (["a", "c"], ["b", "d"])
    assert (one["reasoning_text"], one["text"]) == ("ac", "bd")
    assert separated("", return_blocks=True) == {
        "reasoning_text": "",
        "text": "",
        "reasoning_blocks": [],
        "text_blocks": [],
        "blocks": [],
    }


def test_calls_of_a_text():
    assert parsed(f"Sure. {HERMES}") == {"normal_text": "Sure. ", "calls": CALLED}
    assert parsed("no call") == {"normal_text": "no call", "calls": []}
    assert parsed("<think>why</think>" + HERMES, tool_call_parser="qwen25")["calls"] == CALLED
    assert parsed(GptOss.example, tool_call_parser="gpt-oss")["calls"] == CALLED


def test_calls_within_thoughts_are_those_of_a_chat():
    text = f"<think>a{HERMES}"
    fields = {"text": text, "tools": TOOLS}
    assert answer(make_app(text=ByteText(Qwen3())), PARSE, fields) == {"normal_text": "<think>a", "calls": CALLED}
    for separate in (True, False):
        app = make_app(EchoClient(says(text)), text=ByteText(Qwen3()))
        message = answer(app, CHAT, {**HELLO, "tools": TOOLS, "separate_reasoning": separate})["choices"][0]["message"]
        assert [call["function"]["name"] for call in message["tool_calls"]] == [name for name, _ in CALLS]


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.tool_call_parsers], ids=lambda one: one.__name__)
def test_calls_of_every_parser(family):
    for name in family.tool_call_parsers:
        for text in {family.calls.all_written(CALLS), family.example} - {""}:
            made = parsed(text, tool_call_parser=name)["calls"]
            assert [(call["name"], json.loads(call["parameters"])) for call in made] == list(CALLS), text


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.reasoning_parsers], ids=lambda one: one.__name__)
def test_thoughts_of_every_parser(family):
    for name in family.reasoning_parsers:
        one = separated(f"{family.think.open}why{family.think.close}so", reasoning_parser=name)
        assert one == {"reasoning_text": "why", "text": "so"}


def test_what_is_no_call_of_these_tools_stays_text():
    assert parsed(HERMES, TOOLS[1:]) == {
        "normal_text": HERMES.split("\n<tool_call>")[0] + "\n",
        "calls": [{**CALLED[1], "tool_index": 0}],
    }
    assert parsed(HERMES, []) == {"normal_text": HERMES, "calls": []}
    broken = HERMES.replace("}}", "}", 1)
    assert parsed(broken)["normal_text"].startswith("<tool_call>")


def test_a_custom_tools_text_is_its_input():
    text = '<tool_call>\n{"name": "note", "arguments": {"input": "a \\"b\\""}}\n</tool_call>'
    one = parsed(text, [{"type": "custom", "custom": {"name": "note"}}])
    assert one["calls"] == [{"tool_index": 0, "name": "note", "parameters": json.dumps({"input": 'a "b"'})}]


@pytest.mark.parametrize(
    "path, body, param, words",
    [
        (SEPARATE, {"text": "x", "reasoning_parser": "frob"}, "reasoning_parser", ("auto", "gpt-oss", "qwen3")),
        (
            PARSE,
            {"text": "x", "tools": [], "tool_call_parser": "qwen3"},
            "tool_call_parser",
            ("auto", "hermes", "qwen25"),
        ),
        (SEPARATE, {}, "text", ()),
        (SEPARATE, {"text": 1}, "text", ()),
        (PARSE, {"text": "x"}, "tools", ()),
        (PARSE, {"text": "x", "tools": [{"type": "function"}]}, "tools[0].function", ()),
    ],
)
def test_bad_requests(path, body, param, words):
    told = error(post(make_app(), path, body), 400)
    assert told["param"] == param and all(word in told["message"] for word in words)


def test_bodies_have_a_limit():
    assert post(make_app(max_body_bytes=100), SEPARATE, {"text": "x" * 200}).status_code == 413
    assert post(make_app(strict_fields=True), SEPARATE, {"text": "x", "frob": 1}).status_code == 400
    assert post(make_app(), SEPARATE, {"text": "x", "frob": 1}).headers["X-RadixMill-Ignored"] == "frob"


def test_a_long_text_is_read_all_the_same():
    text = "<think>" + "why " * 200_000 + "</think>" + "so " * 200_000
    one = separated(text)
    assert len(one["reasoning_text"]) == 800_000 and len(one["text"]) == 600_000


# --tool-call-parser none: a server that reads no calls.


def unread(text: str, **fields: Any) -> Any:
    app = make_app(EchoClient(says(text)), text=ByteText(Dialect(calls=Unread())))
    return post(app, CHAT, {**HELLO, "tools": TOOLS, **fields})


def test_where_no_calls_are_read_they_are_content():
    message = unread(HERMES).json()["choices"][0]
    assert message["message"]["content"] == HERMES and message["finish_reason"] == "stop"
    one = unread('{"a": 1}', response_format={"type": "json_object"})
    assert one.json()["choices"][0]["message"]["content"] == '{"a": 1}'


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, "tool_choice"),
        ({"tools": [{**TOOLS[1], "function": {**TOOLS[1]["function"], "strict": True}}]}, "tools"),
    ],
)
def test_where_no_calls_are_read_none_is_promised(fields, param):
    told = error(unread("x", **fields), 400)
    assert told["param"] == param and "--tool-call-parser none" in told["message"]
