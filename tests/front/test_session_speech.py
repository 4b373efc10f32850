"""Thoughts and tools in a session: events, tokens, usage, ends, ids and the grammar that the engine is given."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint
from radixmill.front.dialects import GENERIC, THINKING
from radixmill.front.dialects.calls.base import LAST_LINE
from radixmill.front.session import (
    Arguments,
    Ask,
    Call,
    ChatPrompt,
    Content,
    End,
    Event,
    Generation,
    Reasoning,
    Sampling,
    Session,
    TextPrompt,
    Tool,
    ToolRule,
    Usage,
    Whole,
    WholeCall,
    gather,
    template_tools,
)
from tests.fakes import EOS, ByteText, EchoClient
from tests.front.kit import says

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
F, G = Tool(name="f", parameters=SCHEMA, field="tools[0]"), Tool(name="g", field="tools[1]")
STRICT = Tool(name="f", parameters=SCHEMA, strict=True, field="tools[0].function.parameters")
NOTE = Tool(name="note", custom=True)
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CALL_G = '<tool_call>\n{"name": "g"}\n</tool_call>'
HI = ChatPrompt(messages=({"role": "user", "content": "hi"},))
JSON = Constraint(kind="json_schema", text='{"type": "object"}')


def ask(**fields: Any) -> Ask:
    return Ask(**{"id": "q", "model": "echo", "prompts": (HI,), "seed": 1, **fields})


def session(said: str = "", *, text: ByteText | None = None, cuts=(1,), **client: Any) -> Session:
    return Session(text or ByteText(THINKING), EchoClient(says(said), cuts=cuts, **client), ("echo",))


def run(made: Session, asked: Ask) -> tuple[list[Event], Usage]:
    async def go() -> tuple[list[Event], Usage]:
        generation = await made.start(asked)
        events = [event async for group in generation for event in group]
        generation.close()
        return events, generation.usage()

    return asyncio.run(go())


def whole(made: Session, asked: Ask) -> tuple[Whole, Usage]:
    async def go() -> tuple[Whole, Usage]:
        generation: Generation = await made.start(asked)
        (one,) = await gather(generation)
        generation.close()
        return one, generation.usage()

    return asyncio.run(go())


def test_thoughts_content_and_calls():
    said = f"<think>why</think>\nSo.\n{CALL}\n{CALL_G}"
    one, usage = whole(session(said), ask(tools=ToolRule(tools=(F, G))))
    assert (one.reasoning, one.text, one.end.reason) == ("why", "\nSo.\n", "tool_calls")
    assert [(call.name, call.arguments) for call in one.calls] == [("f", '{"a": 1}'), ("g", "{}")]
    assert all(len(call.id) == 29 and call.id.startswith("call_") for call in one.calls)
    assert one.calls[0].id != one.calls[1].id
    assert usage.reasoning == len("<think>why</think>") and usage.completion == len(said) + 1


def test_ids_are_the_same_again_and_differ_by_request_and_choice():
    rule = ToolRule(tools=(F,))
    again = [whole(session(CALL, cuts=cuts), ask(tools=rule))[0].calls[0].id for cuts in ((1,), (7,), (1000,))]
    other = whole(session(CALL), ask(id="other", tools=rule))[0].calls[0].id
    events, _ = run(session(CALL), ask(n=2, width=2, tools=rule))
    both = {event.id for event in events if isinstance(event, Call)}
    assert len(set(again)) == 1 and other not in again and len(both) == 2 and again[0] in both


def test_without_tags_and_tools_nothing_is_split():
    said = f"<think>a</think>{CALL}"
    one, usage = whole(session(said, text=ByteText(GENERIC)), ask())
    assert (one.text, one.reasoning, one.calls, one.end.reason, usage.reasoning) == (said, None, (), "stop", 0)
    one, _ = whole(session(said), ask(prompts=(TextPrompt("raw"),)))
    assert one.text == said, "a prompt of the client's own making"
    one, _ = whole(session(said), ask(tools=ToolRule(tools=(F,), choice="none")))
    assert (one.text, one.reasoning) == (CALL, "a")


def test_the_prompt_may_open_the_thoughts():
    one, usage = whole(session("why</think>so", text=ByteText(THINKING, "<think>\n")), ask())
    assert (one.reasoning, one.text, usage.reasoning) == ("why", "so", len("why</think>"))
    one, usage = whole(session("why", text=ByteText(THINKING, "<think>\n")), ask())
    assert (one.reasoning, one.text, usage.reasoning) == ("why", "", 3)
    going_on = ChatPrompt(
        messages=({"role": "assistant", "content": "<think>so far"},),
        add_generation_prompt=False,
        continue_final_message=True,
    )
    one, _ = whole(session(" and on</think>x"), ask(prompts=(going_on,)))
    assert (one.reasoning, one.text) == (" and on", "x")


def test_thoughts_may_stay_in_the_content_or_come_at_once():
    said = "<think>why</think>so"
    one, usage = whole(session(said), ask(separate_reasoning=False))
    assert (one.text, one.reasoning, usage.reasoning) == (said, None, len("<think>why</think>"))
    events, _ = run(session(said), ask(stream_reasoning=False))
    assert [event.text for event in events if isinstance(event, Reasoning)] == ["why"]


@pytest.mark.parametrize(
    "said, max_tokens, reason",
    [
        (CALL, None, "tool_calls"),
        (f"{CALL} and text", None, "tool_calls"),
        ("<tool_call>{}</tool_call>", None, "stop"),
        (CALL, len(CALL), "length"),
        (CALL, len(CALL) - 3, "length"),
        (CALL, 20, "length"),
    ],
)
def test_why_it_ended(said, max_tokens, reason):
    one, _ = whole(session(said), ask(tools=ToolRule(tools=(F,)), max_tokens=max_tokens))
    assert one.end.reason == reason
    assert (
        bool(one.calls) == (max_tokens is None or max_tokens > 20) == (one.text != said[:max_tokens] or not one.text)
        or said != CALL
    )


def test_a_call_cut_off_by_a_stop_string():
    guaranteed = ToolRule(tools=(STRICT,))
    one, _ = whole(session(CALL), ask(tools=guaranteed, stop=("1}",)))
    assert (one.end.reason, one.end.matched, one.calls[0].arguments) == ("stop", "1}", '{"a": ')
    one, _ = whole(session(CALL), ask(tools=ToolRule(tools=(F,)), stop=("1}",)))
    assert (one.end.reason, one.calls, one.text) == ("stop", (), '<tool_call>\n{"name": "f", "arguments": {"a": ')
    one, _ = whole(session(f"{CALL}\nUser:"), ask(tools=ToolRule(tools=(F,)), stop=("\nUser",)))
    assert (one.end.reason, one.end.matched, len(one.calls)) == ("tool_calls", "\nUser", 1)


@pytest.mark.parametrize("thoughts", ["", "<think>hm</think>"])
def test_what_is_cut_before_a_guaranteed_call_begins_is_left_out(thoughts):
    head = CALL.index('"f"') + 3
    for most in range(1, len(CALL)):
        asked = ask(
            tools=ToolRule(tools=(F, NOTE), choice="required"), max_tokens=len(thoughts) + most, keep_tokens=True
        )
        one, usage = whole(session(thoughts + CALL), asked)
        assert (one.text, len(one.calls), one.end.reason) == ("", most >= head, "length"), most
        assert len(one.tokens) == usage.completion == len(thoughts) + most
        one, _ = whole(session(thoughts + CALL), ask(tools=ToolRule(tools=(STRICT,)), max_tokens=len(thoughts) + most))
        said = CALL[:most] if most < len("<tool_call>") else ""  # it may be the text's own
        assert (one.text, len(one.calls)) == (said, most >= head), most
    custom = '<tool_call>\n{"name": "note", "arguments": '
    one, _ = whole(session(custom), ask(tools=ToolRule(tools=(NOTE,), choice="required"), max_tokens=len(custom) - 1))
    assert one.text == ""


def test_one_call_is_enough_where_more_are_not_wanted():
    for cuts in ((1,), (1000,)):
        made = session(f"{CALL}\n{CALL_G}", cuts=cuts)
        one, usage = whole(made, ask(tools=ToolRule(tools=(F, G), parallel=False)))
        assert [call.name for call in one.calls] == ["f"] and one.end == End(0, "tool_calls")
        assert usage.completion == len(CALL)
    assert not made.client.live


def test_streamed_arguments():
    rule = ToolRule(tools=(STRICT,), choice="required")
    events, _ = run(session(CALL, cuts=(3,)), ask(tools=rule))
    assert "".join(event.text for event in events if isinstance(event, Arguments)) == '{"a": 1}'
    assert sum(isinstance(event, Arguments) for event in events) > 1
    events, _ = run(session(CALL, cuts=(3,)), ask(tools=ToolRule(tools=(F,))))
    assert [type(event) for event in events] == [Call, Arguments, End]


PIECES = ["<think>", "</think>", CALL, CALL_G, "é", "a", "\n", "stop", '<tool_call>{"x"', "</tool_call>", "<"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
ASKS = st.fixed_dictionaries({
    "tools": st.sampled_from([None, ToolRule(tools=(F, G)), ToolRule(tools=(F, G), parallel=False), ToolRule(tools=(STRICT,)), ToolRule(tools=(F, NOTE), choice="required")]),
    "separate_reasoning": st.booleans(),
    "stream_reasoning": st.booleans(),
    "stop": st.sampled_from([(), ("stop",), ("</tool_call>",), ("think",)]),
    "max_tokens": st.sampled_from([None, 30]),
    "keep_stop": st.booleans(),
})  # fmt: skip


@given(TEXTS, st.lists(st.integers(1, 40), min_size=1, max_size=4), ASKS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_cut_is_the_same_fold(said, cuts, fields, opened):
    asked = ask(**fields, keep_tokens=True, sampling=Sampling(logprobs=1))
    text = ByteText(THINKING, "<think>" if opened else "")
    answer, usage = whole(session(said, text=text, cuts=cuts), asked)
    assert (answer, usage) == whole(session(said, text=text, cuts=(1000,)), asked)
    assert len(answer.tokens) == usage.completion, "no token is lost"
    assert [token.id for token in answer.tokens] == [*said.encode(), EOS][: usage.completion], "nor their order"
    offsets = [token.offset for token in answer.tokens]
    assert offsets == sorted(offsets) and 0 <= usage.reasoning <= usage.completion


def test_tokens_ride_on_the_event_that_they_begin_in():
    asked = ask(keep_tokens=True, tools=ToolRule(tools=(F,)))
    events, _ = run(session(f"<think>w</think>a{CALL}"), asked)
    kinds = [(type(event), bytes(token.id for token in event.tokens)) for event in events[:-2]]
    head, rest = b'<tool_call>\n{"name": "f"', b', "arguments": {"a": 1}'
    assert kinds == [(Reasoning, b"<think>w"), (Content, b"</think>a"), (Call, head), (Arguments, rest)]
    assert events[-2].text == "" and isinstance(events[-2], Arguments)
    assert [token.id for token in events[-2].tokens] == [*b"}\n</tool_call>", EOS]


def test_special_tokens_that_are_tags_stay_in_sight():
    class Special(ByteText):
        """Byte 1 is the token `<think>`, byte 2 its end, byte 3 an ordinary control token."""

        def __init__(self) -> None:
            super().__init__(THINKING)
            self.control |= {"<think>": 1, "</think>": 2, "<|x|>": 3}
            self.special_ids |= {1, 2, 3}

        def token_bytes(self, token: int) -> bytes:
            return {1: b"<think>", 2: b"</think>", 3: b"<|x|>"}.get(token) or super().token_bytes(token)

    made = Session(Special(), EchoClient(says(b"\x01why\x02so\x03")), ("echo",))
    one, usage = whole(made, ask())
    assert (one.reasoning, one.text, usage.reasoning) == ("why", "so", 5)
    said = b"\x01a</think>b\x02<think>so</think>"  # only the tokens are tags
    one, usage = whole(Session(Special(), EchoClient(says(said)), ("echo",)), ask(stop=("ink>x", "</t!")))
    assert (one.reasoning, one.text, usage.reasoning) == ("a</think>b", "<think>so</think>", 12)


def test_custom_tools():
    tools = (Tool(name="note", custom=True), Tool(name="sql", custom=True, format=Constraint(kind="regex", text="S.*")))
    said = '<tool_call>\n{"name": "note", "arguments": {"input": "a\\nb"}}\n</tool_call>\n<tool_call>\n{"name": "sql"}\nSELECT\n</tool_call>'
    made = session(said, text=ByteText(GENERIC))
    one, _ = whole(made, ask(tools=ToolRule(tools=tools)))
    assert [(call.name, call.arguments, call.custom) for call in one.calls] == [
        ("note", "a\nb", True),
        ("sql", "SELECT", True),
    ]
    tags = sent_format(made)["tags"]
    assert tags[1] == {
        "type": "tag",
        "begin": '<tool_call>\n{"name": "sql"}\n',
        "content": {"type": "regex", "pattern": "S.*"},
        "end": "\n</tool_call>",
    }
    assert tags[0]["content"]["json_schema"]["required"] == ["input"]


# The grammar.


def sent(made: Session) -> Constraint | None:
    return made.client.requests[0].constraint


def sent_format(made: Session) -> dict[str, Any]:
    constraint = sent(made)
    assert constraint is not None and constraint.kind == "structural_tag"
    return json.loads(constraint.text)["format"]


def bound(asked: Ask, text: ByteText | None = None) -> Session:
    made = session("x", text=text or ByteText(GENERIC))
    run(made, asked)
    return made


def calls_of(format: Any, *, ends: bool = True) -> Any:
    """The run of calls, behind which line ends may stand."""
    if not ends:
        return format
    calls, end = format["elements"]
    assert end == LAST_LINE
    return calls


def test_what_binds_nothing():
    for fields in ({}, {"tools": ToolRule(tools=(F,))}, {"tools": ToolRule(tools=(STRICT,), choice="none")}):
        made = bound(ask(**fields))
        assert sent(made) is None and made.client.controls == []


@pytest.mark.parametrize("parallel", [True, False])
def test_required_calls(parallel):
    made = bound(ask(tools=ToolRule(tools=(F, G), choice="required", parallel=parallel)))
    assert calls_of(sent_format(made), ends=parallel) == {
        "type": "tags_with_separator",
        "tags": [
            {
                "type": "tag",
                "begin": f'<tool_call>\n{{"name": "{name}", "arguments": ',
                "content": content,
                "end": "}\n</tool_call>",
            }
            for name, content in (
                ("f", {"type": "json_schema", "json_schema": SCHEMA, "max_whitespace_cnt": 1}),
                ("g", {"type": "const_string", "value": "{}"}),
            )
        ],
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": not parallel,
    }
    assert made.client.controls == ["grammar"]


def test_a_named_or_allowed_tool():
    made = bound(ask(tools=ToolRule(tools=(F, G), choice="required", allowed=("g",))))
    tags = calls_of(sent_format(made))["tags"]
    assert [tag["begin"] for tag in tags] == ['<tool_call>\n{"name": "g", "arguments": ']


def test_a_strict_tool_among_free_text():
    made = bound(ask(tools=ToolRule(tools=(STRICT, G))))
    format = sent_format(made)
    assert (format["type"], format["triggers"], format["at_least_one"]) == ("triggered_tags", ["<tool_call>"], False)
    assert [tag["content"]["json_schema"] for tag in format["tags"]] == [SCHEMA, {"type": "object"}]


def test_a_constraint_beside_tools():
    made = bound(ask(constraint=JSON, tools=ToolRule(tools=(F,))))
    calls, answer = sent_format(made)["elements"]
    assert sent_format(made)["type"] == "or" and calls_of(calls)["type"] == "tags_with_separator"
    assert answer == {"type": "json_schema", "json_schema": {"type": "object"}}
    with pytest.raises(BadRequest) as caught:
        bound(ask(constraint=JSON, constraint_field="regex", tools=ToolRule(tools=(F,), choice="required")))
    assert caught.value.param == "regex"


def test_a_grammar_begins_behind_the_thoughts():
    assert sent(bound(ask(constraint=JSON))) == JSON
    made = bound(ask(constraint=JSON), ByteText(THINKING, "<think>\n"))
    assert sent(made) == Constraint(kind="json_schema", text=JSON.text, after="</think>")
    made = bound(ask(constraint=JSON), ByteText(THINKING, "<think>\n\n</think>\n\n"))
    assert sent(made) == JSON
    thoughts, answer = sent_format(bound(ask(constraint=JSON), ByteText(THINKING)))["elements"]
    assert thoughts["content"] == {
        "type": "tag",
        "begin": "<think>",
        "content": {"type": "any_text"},
        "end": "</think>",
    }
    assert (thoughts["type"], answer["type"]) == ("optional", "json_schema")


@pytest.mark.parametrize(
    "constraint, format",
    [
        (Constraint(kind="json_object"), {"type": "json_schema", "json_schema": {"type": "object"}}),
        (Constraint(kind="regex", text="a+"), {"type": "regex", "pattern": "a+"}),
        (Constraint(kind="ebnf", text='root ::= "a"'), {"type": "grammar", "grammar": 'root ::= "a"'}),
        (
            Constraint(kind="structural_tag", text='{"type": "structural_tag", "format": {"type": "any_text"}}'),
            {"type": "any_text"},
        ),
        (
            Constraint(
                kind="structural_tag",
                text='{"structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}], "triggers": ["<f"]}',
            ),
            {
                "type": "triggered_tags",
                "triggers": ["<f"],
                "tags": [
                    {
                        "type": "tag",
                        "begin": "<f>",
                        "content": {"type": "json_schema", "json_schema": {}},
                        "end": "</f>",
                    }
                ],
            },
        ),
    ],
)
def test_every_kind_fits_behind_thoughts(constraint, format):
    made = bound(ask(constraint=constraint), ByteText(THINKING))
    assert sent_format(made)["elements"][1] == format


def refusing(word: str) -> Any:
    return lambda kind, text: {"reason": f"no {word}", "place": "/a"} if word in text else {}


def test_the_engine_may_refuse():
    for fields, word, param in (
        ({"constraint": JSON}, "object", "response_format"),
        ({"constraint": JSON, "tools": ToolRule(tools=(F,))}, '"type": "object"}', "response_format"),
        ({"tools": ToolRule(tools=(STRICT,))}, "integer", "tools[0].function.parameters"),
        ({"tools": ToolRule(tools=(G, F), choice="required")}, "integer", "tools[0]"),
        ({"tools": ToolRule(tools=(STRICT,))}, "triggered", "tools"),
    ):
        made = session("x", text=ByteText(GENERIC), refuse=refusing(word))
        with pytest.raises(BadRequest) as caught:
            run(made, ask(**fields))
        assert caught.value.param == param
        assert f"no {word}" in caught.value.message and "/a" in caught.value.message
        assert not made.client.requests and not made.live


def test_tools_as_templates_see_them():
    tools = (F, G, Tool(name="note", description="d", custom=True))
    shown = template_tools(ToolRule(tools=tools))
    assert shown[0] == {"type": "function", "function": {"name": "f", "description": "", "parameters": SCHEMA}}
    assert shown[1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert shown[2]["function"]["parameters"]["required"] == ["input"]
    assert template_tools(None) == template_tools(ToolRule(tools=tools, choice="none")) == ()
    assert template_tools(ToolRule(tools=tools, allowed=("f", "g"))) == shown, "the prompt stays the same"
    assert template_tools(ToolRule(tools=tools, choice="required", allowed=("g",))) == shown[1:2]


def test_whole_calls_are_structs_of_their_own():
    one, _ = whole(session(CALL), ask(tools=ToolRule(tools=(F,))))
    assert one.calls == (WholeCall(one.calls[0].id, "f", '{"a": 1}'),)
