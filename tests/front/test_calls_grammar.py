"""What the grammars of the families' calls allow is read back as calls, with arguments that validate; and what vendors'
templates write is read back as what they were given."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest

from radixmill.core.request import Constraint
from radixmill.front.dialects import FAMILIES, Dialect, joined
from radixmill.front.dialects.calls.members import members_format
from radixmill.front.dialects.families import (
    DeepSeekR1,
    DeepSeekV31,
    Gemma4,
    Granite,
    InternS1,
    KimiK2,
    Llama3,
    Llama4,
    Mistral,
    MistralCompact,
)
from radixmill.front.session import Tool, ToolRule
from radixmill.front.session.speech import Speech
from radixmill.front.text import ChatTemplate
from tests.data import shared
from tests.engine.grammar_kit import refusal, takes
from tests.front.dialect_kit import Case, every_char, plain
from tests.front.test_session_grammar import speech, written

OURS = [DeepSeekR1, DeepSeekV31, Gemma4, Granite, InternS1, KimiK2, Llama3, Llama4, Mistral, MistralCompact]
BOUND: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "s": {"type": "string", "maxLength": 6},
        "e": {"enum": ["x", 'y"']},
        "o": {
            "type": "object",
            "properties": {"k": {"type": "array", "items": {"$ref": "#/$defs/flag"}, "maxItems": 2}},
            "required": ["k"],
            "additionalProperties": False,
        },
    },
    "required": ["a", "o"],
    "additionalProperties": False,
    "$defs": {"flag": {"type": "boolean"}},
}
OPTIONAL = {"type": "object", "properties": {"p": {"type": "null"}, "q": {"const": 1}}, "additionalProperties": False}
OPEN = {"type": "object", "properties": {"q": {"type": "null"}}, "minProperties": 1, "maxProperties": 2}
SCHEMAS: dict[str, Any] = {"bound": BOUND, "optional": OPTIONAL, "open": OPEN, "nothing": None}
TOOLS = tuple(Tool(name=name, parameters=schema, strict=True) for name, schema in SCHEMAS.items())
NOTE = Tool(name="note", custom=True)
SQL = Tool(name="sql", custom=True, format=Constraint(kind="regex", text='SELECT "[a-z]+"'))


def made(family: type[Dialect], *tools: Tool, **rules: Any) -> Speech:
    return speech(family(think=None), tools=ToolRule(tools=tools, **rules))


def found(speech: Speech, text: str) -> list[tuple[str, ...]]:
    """What is read under the grammar that took the text, the same however it is cut."""
    whole, each = speech.splitter(), speech.splitter()
    assert whole is not None and each is not None
    pieces = plain(joined(whole.push(text) + whole.finish()))
    assert plain(joined([*(piece for char in text for piece in each.push(char)), *each.finish()])) == pieces
    return pieces


@pytest.mark.parametrize("family", OURS)
def test_calls_that_a_grammar_leads_to(family):
    bound = made(family, *TOOLS, choice="required")
    grammar, names = bound.constraint.text, set[str]()
    assert refusal("structural_tag", grammar) is None
    for seed in range(25):
        text = written(grammar, random.Random(seed))
        if not takes("structural_tag", grammar, text):
            continue  # too long, and cut off
        calls = found(bound, text)
        assert calls and all(kind == "call" for kind, *_ in calls), text
        for _, name, arguments in calls:
            names.add(name)
            jsonschema.validate(json.loads(arguments), SCHEMAS[name] or {"maxProperties": 0})
    assert len(names) > 1


@pytest.mark.parametrize("family", OURS)
def test_wrong_arguments_find_no_way(family):
    """Where a call is required, and where calls of strict tools may begin in text."""
    for choice, before in (("required", ""), ("auto", ""), ("auto", "So ")):
        bound = made(family, *TOOLS, choice=choice)
        for name, arguments in (("bound", {"a": 1}), ("optional", {"z": 1}), ("open", {}), ("nothing", {"a": 1})):
            text = before + answer(family, (name, arguments), text=bool(before))
            assert not takes("structural_tag", bound.constraint.text, text), text
    assert not takes("structural_tag", made(family, *TOOLS, choice="required").constraint.text, "So")


@pytest.mark.parametrize("family", OURS)
def test_right_calls_find_one(family):
    calls = [("optional", {"q": 1}), ("nothing", {}), ("optional", {"p": None, "q": 1})]
    for choice, before, some in (
        ("required", "", calls),
        ("auto", "", calls),
        ("auto", "So ", calls[:1]),
        ("auto", "So ", []),
    ):
        bound = made(family, *TOOLS, choice=choice)
        text = before + (answer(family, *some, text=bool(before)) if some else "")
        assert takes("structural_tag", bound.constraint.text, text), text
        assert [part for part in found(bound, text) if part[0] == "call"] == [
            ("call", name, json.dumps(given)) for name, given in some
        ]
    one = made(family, *TOOLS, choice="required", parallel=False).constraint.text
    assert takes("structural_tag", one, answer(family, calls[0]))
    assert not takes("structural_tag", one, answer(family, *calls[:2]))


def answer(family: type[Dialect], *calls: tuple[str, Any], text: bool = False) -> str:
    """Calls as the family's grammar has them. `text`: some stands before."""
    said = family().calls.all_written(calls)
    return said if text or family is not Llama3 else said.removeprefix("<|python_tag|>")


@pytest.mark.parametrize("family", OURS)
def test_custom_tools(family):
    form, bound = family().calls, made(family, SQL, NOTE, choice="required")
    texts = {
        'SELECT "x"': f'{form.section.open}{form.head("sql", "text")}SELECT "x"{form.tail("text")}{form.section.close}',
        "a\n<b>": answer(family, ("note", {"input": "a\n<b>"})),
    }
    for given, text in texts.items():
        assert takes("structural_tag", bound.constraint.text, text), text
        assert [part[2] for part in found(bound, text)] == [given]
        assert not takes(
            "structural_tag", bound.constraint.text, text.replace("SELECT", "DROP").replace("input", "text")
        )


def test_members_are_left_to_json_where_they_are_not_all():
    assert members_format(BOUND, "{}=".format, dict, ", ") is not None
    more = [{"minProperties": 1}, {"anyOf": [{}]}, {"required": ["z"]}, {"properties": {"a b": {}}}, {"properties": {}}]
    more += [{"properties": {"a": {"$ref": "#/properties/b"}, "b": {}}}, {"$ref": "#/$defs/flag"}]
    assert [members_format({**BOUND, **extra}, "{}=".format, dict, ", ") for extra in more] == [None] * len(more)


# --- what vendors' templates write

TEMPLATES = [
    ("Kimi-K2-Instruct", KimiK2, 2),
    ("Kimi-K2-Thinking", KimiK2, 2),
    ("moonshotai-Kimi-K2", KimiK2, 2),
    ("deepseek-ai-DeepSeek-V3.1", DeepSeekV31, 2),
    ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", DeepSeekR1, 2),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", DeepSeekR1, 2),
    ("Mistral-Small-3.2-24B-Instruct-2506", MistralCompact, 2),
    ("Mistral-Small-3.2-24B-Instruct-2506", Mistral, 2),
    ("mistralai-Mistral-Nemo-Instruct-2407", Mistral, 2),
    ("mistralai-Mistral-Nemo-Instruct-2407", MistralCompact, 2),
    ("meta-llama-Llama-3.1-8B-Instruct", Llama3, 1),
    ("meta-llama-Llama-3.2-3B-Instruct", Llama3, 1),
]


ENDS = re.compile(r"<end>|<\|im_end\|>|<｜end▁of▁sentence｜>|<\|eot_id\|>")


@pytest.mark.parametrize("name, family, most", TEMPLATES)
def test_what_a_template_writes(name, family, most):
    """Two calls, or the one that it can write, behind what stands before an answer."""
    calls = [("get_weather", {"city": 'Paris "é"', "days": 3}), ("now", {})][:most]
    turns = [
        {"type": "function", "id": f"{i:09}", "function": {"name": n, "arguments": a}} for i, (n, a) in enumerate(calls)
    ]
    user = {"role": "user", "content": "Hi"}
    template = ChatTemplate(
        shared("templates", f"{name}.jinja").read_text(), variables={"bos_token": "", "eos_token": "<end>"}
    )
    text = template.render(
        [user, {"role": "assistant", "content": None, "tool_calls": turns}], add_generation_prompt=False
    )
    behind = text[text.rindex("Hi") :]
    first = min(behind.find(opener) for opener in _openers(family) if opener in behind)
    case = Case(family(think=None), ENDS.split(behind[first:])[0])
    assert plain(case.read()[0]) == plain(case.read(every_char(case.text))[0])
    assert [(name, json.loads(given)) for _, name, given in plain(case.read()[0])] == calls


def _openers(family: type[Dialect]) -> tuple[str, ...]:
    return (*family().calls.openers, *family().calls.first_openers)


def test_every_family_reads_its_own_example():
    for family in FAMILIES:
        if family().example:
            names = [name for kind, name, *_ in plain(Case(family(), family().example).read()[0]) if kind == "call"]
            assert names == ["get_weather", "now"], family
