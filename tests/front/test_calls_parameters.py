"""Calls as parameters in tags: what each form means, whatever the cut, and what their grammars take."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radixmill.front.dialects import Callee, Dialect
from radixmill.front.dialects.calls.base import INPUT, NO_ARGUMENTS, Target
from radixmill.front.dialects.calls.typed import ANY, TEXT, is_text, json_of, kinds_of
from radixmill.front.dialects.families import (
    DeepSeekV32,
    Glm45,
    Glm47,
    Hunyuan,
    MiniMaxM2,
    Qwen3Coder,
    Step3,
)
from radixmill.front.text import ChatTemplate
from tests.data import shared
from tests.front.test_dialects import plain, split

FAMILIES = [DeepSeekV32, Glm45, Glm47, Hunyuan, MiniMaxM2, Qwen3Coder, Step3]
FORMS = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
ANYTHING = {
    "type": "object",
    "properties": {"s": {"type": "string"}, "v": {}, "n": {"type": ["string", "null"]}, "l": {"type": "array"}},
}
TOOLS = {
    "get_weather": Callee(parameters=WEATHER),
    "now": Callee(),
    "f": Callee(parameters=ANYTHING),
    "note": Callee("input"),
    "sql": Callee("text"),
}


def read(family: type[Dialect], text: str, tools: Any = TOOLS, **rules: Any) -> list[tuple]:
    """What a text means, the same whole and letter by letter."""
    dialect = Dialect(think=None, calls=family.calls)
    whole = plain(split(text, dialect=dialect, tools=tools, **rules))
    assert plain(split(text, list(range(len(text))), dialect=dialect, tools=tools, **rules)) == whole
    return whole


def call(name: str, arguments: str) -> tuple[str, str, str]:
    return ("call", name, arguments)


PARIS = call("get_weather", '{"city": "Paris", "days": 3}')
TWO = [("get_weather", {"city": "Paris", "days": 3}), ("now", {})]

XML = """<tool_call>
<function=get_weather>
<parameter=city>
Paris
</parameter>
<parameter=days>
3
</parameter>
</function>
</tool_call>"""
WRITTEN: dict[type[Dialect], str] = {
    Qwen3Coder: f"{XML}\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    Glm45: (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>"
    ),
    Glm47: (
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value>"
        "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call><tool_call>now</tool_call>"
    ),
    MiniMaxM2: (
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>'
    ),
    DeepSeekV32: (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
    ),
    Step3: Step3.example.removeprefix("why</think>"),
    Hunyuan: Hunyuan.example.removeprefix("<think>why</think>\n"),
}  # fmt: skip


@FORMS
def test_two_calls_as_they_are_written(family):
    text = WRITTEN[family]
    assert read(family, text) == [PARIS, call("now", "{}")]
    assert family.calls.all_written(TWO) == text
    assert read(family, f"So:\n{text}\n") == [("said", "So:\n"), PARIS, call("now", "{}")]
    assert read(family, f"{text}\n\nDone") == [PARIS, call("now", "{}"), ("said", "\n\nDone")]


@FORMS
def test_white_space_between_tags_is_free(family):
    for space in ("", "\n", "\r\n \t"):
        loose = re.sub(r"(?<=>)\n?(?=<)", space, WRITTEN[family])
        assert read(family, loose) == [PARIS, call("now", "{}")]


VENDORS = [
    (Qwen3Coder, "Qwen3-Coder", "<|im_start|>assistant\n", "<|im_end|>", ""),
    (Glm45, "GLM-4.6", "<|assistant|>", "", "why"),
    (MiniMaxM2, "MiniMax-M2", "]~b]ai\n", "[e~[", "why"),
    (DeepSeekV32, "deepseek-ai-DeepSeek-V3.2", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "why"),
]  # fmt: skip
HARD = {"s": 'a\n<b> & "c" </parameter> </arg_value>', "v": {"x": ["</arg_value>", None, True], "é": 1.5}, "n": None}


@pytest.mark.parametrize("family, name, begin, end, thought", VENDORS)
def test_the_vendors_template_is_read_back(family, name, begin, end, thought):
    template = ChatTemplate(shared("templates", f"{name}.jinja").read_text(encoding="utf-8"))
    calls = [("get_weather", {"city": "Paris", "days": 3}), ("f", HARD), ("now", {})]
    functions = [{"type": "function", "function": {"name": name, "arguments": made}} for name, made in calls]
    answer = {"role": "assistant", "content": "", "reasoning_content": thought, "tool_calls": functions}
    text = template.render(
        [{"role": "user", "content": "hi"}, answer], tools=None, add_generation_prompt=False, thinking=True
    )
    said = text[text.rindex(begin) + len(begin) :]
    said = said[: said.rindex(end)] if end else said
    dialect = Dialect(think=family.think, calls=family.calls)
    for cuts in ([], list(range(len(said)))):
        pieces = plain(split(said, cuts, dialect=dialect, tools=TOOLS))
        kept = [piece for piece in pieces if piece[0] == "call"]
        assert [(name, json.loads(given)) for _, name, given in kept] == calls
        assert [text.strip() for kind, text in pieces[: -len(kept)] if kind == "thought"] == (
            [thought] if thought else []
        )
        assert len(pieces) == len(kept) + bool(thought)


def one(value: str, key: str = "s", tail: str = "</function></tool_call>") -> str:
    return f"<tool_call><function=f><parameter={key}>{value}</parameter>{tail}"


@pytest.mark.parametrize(
    "text, arguments",
    [
        (one("\nParis\n"), {"s": "Paris"}),
        (one("Paris"), {"s": "Paris"}),
        (one(" Paris\n\n"), {"s": " Paris\n"}),
        (one("\n\n\n"), {"s": "\n"}),
        (one("\n\n"), {"s": ""}),
        (one(""), {"s": ""}),
        (one("3"), {"s": "3"}),
        (one('"q"'), {"s": '"q"'}),
        (one("3", "v"), {"v": 3}),
        (one("x < y", "v"), {"v": "x < y"}),
        (one("null", "n"), {"n": None}),
        (one("None", "n"), {"n": None}),
        (one("3", "n"), {"n": "3"}),
        (one('\n{"a": 1}\n', "n"), {"n": '{"a": 1}'}),
        (one("\n[1,]\n", "l"), {"l": "[1,]"}),
        (one("\n[1]\n", "l"), {"l": [1]}),
        (one("True", "v"), {"v": True}),
        (one("True"), {"s": "True"}),
        (one('{"a": "</parameter></function></tool_call>"}', "v"), {"v": {"a": "</parameter></function></tool_call>"}}),
        (one('"</parameter> <parameter=x>"', "v"), {"v": "</parameter> <parameter=x>"}),
        (one("{curly} \"x", "v"), {"v": '{curly} "x'}),
        (one("a</parameter>b"), {"s": "a</parameter>b"}),
        (one("a</parameter></function>b"), {"s": "a</parameter></function>b"}),
        (one("a</parameter>\n</parameter>"), {"s": "a</parameter>\n</parameter>"}),
        (one("<tool_call>\n<function=f>"), {"s": "<tool_call>\n<function=f>"}),
        (one("a", tail="\n<parameter=v>[1]</parameter>\n</function></tool_call>"), {"s": "a", "v": [1]}),
        ("<tool_call><function=f></function></tool_call>", {}),
        ('<tool_call><function=f>{"a": {"b": 1}}</function></tool_call>', {"a": {"b": 1}}),
        ("<tool_call><function=f>\n{ }\n</function></tool_call>", {}),
        # The end of the text closes what is whole.
        (one("a", tail="</function></tool"), {"s": "a"}),
        (one("a", tail="</function>"), {"s": "a"}),
        (one("a", tail="</func"), {"s": "a"}),
        ('<tool_call><function=f>{"a": 1}', {"a": 1}),
    ],
)  # fmt: skip
def test_what_a_value_means(text, arguments):
    ((_, name, given),) = read(Qwen3Coder, text)
    assert name == "f" and json.loads(given) == arguments


def test_json_that_is_to_be_text_keeps_what_is_not_of_the_form():
    text = '<minimax:tool_call><invoke name="f"><parameter name="n"> [1] </parameter></invoke></minimax:tool_call>'
    assert read(MiniMaxM2, text) == [call("f", '{"n": " [1] "}')]


def test_before_another_call_the_closing_tag_may_be_missing():
    assert read(Qwen3Coder, XML.removesuffix("</tool_call>") + XML) == [PARIS, PARIS]


BROKEN = [
    one("a", tail=""),
    one("a", tail="\n"),
    "<tool_call><function=f><parameter=s>a",
    "<tool_call><function=f><parameter=s>a</function></tool_call>",
    "<tool_call><function=f><parameter=s>a</parameter><parameter=s>b</parameter></function></tool_call>",
    "<tool_call><function=f>text</function></tool_call>",
    "<tool_call><function=f>",
    "<tool_call><function=f",
    "<tool_call><function=f\n></function></tool_call>",
    "<tool_call>now</tool_call>",
    "<tool_call><function=unknown></function></tool_call>",
    "<tool_call><function=f>[1]</function></tool_call>",
    '<tool_call><function=f>{"a": 1} x</function></tool_call>',
    '<tool_call><function=note><parameter=other>x</parameter></function></tool_call>',
    "<tool_call><function=f></function> x</tool_call>",
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_call_stays_as_it_was_written(broken):
    assert read(Qwen3Coder, broken) == [("said", broken)]
    assert read(Qwen3Coder, f"{XML}{broken}") == [PARIS, ("said", broken)]
    if broken.endswith("</tool_call>") and broken.count("<parameter") == broken.count("</parameter"):
        assert read(Qwen3Coder, f"{broken}\n{XML}") == [("said", f"{broken}\n"), PARIS]


@FORMS
def test_a_call_that_never_ends_is_text(family):
    calls = family.calls
    text = calls.section.open + calls.written("get_weather", {"city": "Paris", "days": 3})
    whole = len(text) - len(calls.tail())
    for end in range(len(calls.openers[0]), whole + 1):
        assert read(family, text[:end]) == [("said", text[:end])]
    assert read(family, text) == [PARIS]


@FORMS
def test_free_input(family):
    calls = family.calls
    for said in ("", 'SELECT "1"', "a\n\nb", "3", "null", "<x>"):
        made = calls.written("note", {"input": said})
        assert read(family, f"{calls.section.open}{made}{calls.section.close}") == [call("note", said)]
        made = f"{calls.head('sql', 'text')}{said}{calls.tail('text')}"
        assert read(family, f"{calls.section.open}{made}{calls.section.close}") == [call("sql", said)]


def test_dsml_says_what_is_text():
    def dsml(kind: str, value: str, key: str = "v") -> str:
        parameter = f'<｜DSML｜parameter name="{key}" string="{kind}">{value}</｜DSML｜parameter>'
        return f'<｜DSML｜function_calls><｜DSML｜invoke name="f">{parameter}</｜DSML｜invoke></｜DSML｜function_calls>'

    for text, arguments in (
        (dsml("true", "3"), {"v": "3"}),
        (dsml("false", "3"), {"v": 3}),
        (dsml("false", '"3"', "s"), {"s": "3"}),
        (dsml("false", "text"), {"v": "text"}),
        (dsml("true", '</｜DSML｜parameter>"'), {"v": '</｜DSML｜parameter>"'}),
    ):
        ((_, _, given),) = read(DeepSeekV32, text)
        assert json.loads(given) == arguments
    assert read(DeepSeekV32, dsml("maybe", "3")) == [("said", dsml("maybe", "3"))]


def test_guaranteed_arguments_come_by_the_parameter():
    tools = {"get_weather": Callee(parameters=WEATHER, bound=True)}
    text = XML[: XML.index("3\n")]
    assert read(Qwen3Coder, text, tools, guaranteed=True) == [call("get_weather", '{"city": "Paris"')]
    assert read(Qwen3Coder, XML, tools, guaranteed=True) == [PARIS]


def test_of_a_name_that_repeats_the_last_counts_only_where_a_grammar_could_not_refuse_it():
    text = "<tool_call><function=f><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>"
    for bound, meant in ((False, [("said", text)]), (True, [call("f", '{"a": 2}')])):
        tools = {"f": Callee(parameters={"type": "object"}, bound=bound)}
        assert read(Qwen3Coder, text, tools) == meant
    assert read(Qwen3Coder, text[:-30], tools, guaranteed=True) == [call("f", "")]


@FORMS
def test_nothing_of_a_guaranteed_call_is_text(family):
    tools = {name: tool._replace(bound=True) for name, tool in TOOLS.items()}
    text = family.calls.all_written(TWO)
    for end in range(len(text)):
        pieces = read(family, text[:end], tools, guaranteed=True, only_calls=True)
        assert all(kind == "call" for kind, *_ in pieces), text[:end]
        assert all(
            whole[2].startswith(part[2]) for part, whole in zip(pieces, (PARIS, call("now", "{}")), strict=False)
        )


ROOT = {
    "properties": {
        "ref": {"$ref": "#/$defs/name"},
        "loop": {"$ref": "#/$defs/loop"},
        "never": False,
        "list": {"enum": ["a", 1]},
        "words": {"enum": ["a", "b"]},
        "const": {"const": None},
        "both": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "all": {"allOf": [{"type": ["string", "null"]}, {"type": ["string", "integer"]}]},
        "number": {"type": "number"},
        "lost": {"$ref": "#/$defs/none"},
        "a/b": {"type": "string"},
        "far": {"$ref": "#/properties/a~1b"},
    },
    "anyOf": [{"properties": {"x": {"type": "string"}}}, {"properties": {"x": {"type": "null"}}}],
    "additionalProperties": {"type": "boolean"},
    "$defs": {"name": {"type": "string"}, "loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "string"}]}},
}


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("ref", TEXT), ("loop", ANY), ("never", frozenset()), ("list", {"string", "integer"}), ("words", TEXT),
        ("const", {"null"}), ("both", {"string", "integer"}), ("all", TEXT), ("number", {"integer", "number"}),
        ("lost", ANY), ("a/b", TEXT), ("far", TEXT), ("other", {"boolean"}),
    ],
)  # fmt: skip
def test_the_types_of_a_parameter(name, kinds):
    assert kinds_of(ROOT, name) == kinds and is_text(ROOT, name) == (kinds == TEXT)


def test_types_said_in_several_places_and_nowhere():
    assert kinds_of({**ROOT, "additionalProperties": True}, "x") == {"string", "null"}
    assert kinds_of({}, "x") == kinds_of({"properties": 1, "anyOf": 2}, "x") == ANY


def test_a_schema_that_doubles_with_every_reference_is_given_up():
    defs = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(60)}
    assert (
        kinds_of({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, "d60": {"type": "string"}}}, "a")
        == ANY
    )


@pytest.mark.parametrize(
    "text, kinds, value",
    [
        ("1", {"integer", "number"}, 1), ("1.5", {"integer"}, "1.5"), ("1.0", {"integer"}, 1.0), ("1", {"string"}, "1"),
        ("1.5", {"integer", "number"}, 1.5), ("[1", ANY, "[1"), ("NaN", ANY, "NaN"), (" [1]\n", ANY, [1]), ("", ANY, ""),
        ("False", {"boolean"}, False), ("None", {"null"}, None), ("None", {"integer"}, "None"), ('"a"', ANY, "a"),
        ('a"\\\n', {"integer"}, 'a"\\\n'), ("{'a': 1}", {"object"}, "{'a': 1}"),
    ],
)  # fmt: skip
def test_what_a_text_is_under_types(text, kinds, value):
    made = json.loads(json_of(text, frozenset(kinds)))
    assert made == value and type(made) is type(value)


TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "</parameter>",
            "</arg_value>",
            "</｜DSML｜parameter>",
            "<parameter=x>",
            "</function>",
            "</tool_call>",
            "\n",
            "<",
        ]
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda below: st.lists(below, max_size=2), max_leaves=4
)


@given(st.sampled_from(FAMILIES), TEXTS, VALUES, st.lists(st.integers(0, 400)))
@settings(max_examples=300, deadline=None)
@example(Qwen3Coder, "\n", ["</parameter></function></tool_call>"], [])
def test_what_is_written_is_read_back(family, text, value, cuts):
    """Every string parameter that is one is exact, but for one that holds what ends it; JSON is what it was."""
    calls = family.calls
    value = value if not isinstance(value, str) else [value]
    made = calls.section.open + calls.written("f", {"v": value, "s": text}) + calls.section.close
    dialect = Dialect(think=None, calls=calls)
    pieces = split(made, cuts, dialect=dialect, tools=TOOLS)
    assert pieces == split(made, list(range(len(made))), dialect=dialect, tools=TOOLS)
    ((_, name, given),) = plain(pieces)
    assert name == "f" and json.loads(given) == {"v": value, "s": text}


FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=s>", "<parameter=v>", "</parameter>", "\n", "a", "{", '"',
    "<arg_key>s</arg_key>", "<arg_value>", "</arg_value>", "f", "<tool_sep>", "<tool_calls>", "</tool_calls>", '<invoke name="f">',
    "</invoke>", '<parameter name="s">', "<minimax:tool_call>", "</minimax:tool_call>", "<", "</", XML, '{"a": 1}',
]  # fmt: skip


@given(
    st.sampled_from(FAMILIES),
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.lists(st.integers(0, 200)),
)
@settings(max_examples=400, deadline=None)
def test_any_cut_gives_the_same_pieces(family, text, cuts):
    whole = split(text, [], dialect=family(), tools=TOOLS)
    assert split(text, cuts, dialect=family(), tools=TOOLS) == whole
    assert split(text, list(range(len(text))), dialect=family(), tools=TOOLS) == whole


@pytest.mark.parametrize(
    "schema, layout",
    [
        (WEATHER, "listed"), (INPUT, "listed"), (NO_ARGUMENTS, "listed"), ({"type": "object"}, "any"),
        ({"title": "T", "type": "object", "additionalProperties": True}, "any"),
        ({"type": "object", "additionalProperties": False}, "listed"),
        ({"type": "object", "properties": {"id": {}}}, "listed"),
        ({"type": "object", "properties": {"a>b": {}}}, "json"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "json"),
        ({**WEATHER, "minProperties": 1}, "json"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, "json"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}, "listed"),
        ({"type": "object", "properties": {"a": {"$defs": {"b": {}}}}}, "json"),
        ({"anyOf": [WEATHER]}, "json"),
    ],
)  # fmt: skip
def test_how_arguments_are_written(schema, layout):
    assert Qwen3Coder.calls.layout(schema) == layout
    jsonschema.Draft202012Validator.check_schema(schema)
    assert Qwen3Coder.calls.content(Target("f", schema=schema))
