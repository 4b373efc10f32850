"""Llama 3's calls: an object behind a tag, or first in the answer."""

from __future__ import annotations

import json

import pytest

from radixmill.front.dialects import Called, Callee
from radixmill.front.dialects.families import Llama3
from radixmill.front.session import Tool, ToolRule
from tests.engine.grammar_kit import takes
from tests.front.dialect_kit import Case, every_char, plain
from tests.front.test_session_grammar import speech

TOOLS = {"f": Callee(), "g": Callee(), "note": Callee("input"), "sql": Callee("text")}
F, G = ("call", "f", '{"a": 1}'), ("call", "g", "{}")
CALL_F, CALL_G = '{"name": "f", "parameters": {"a": 1}}', '{"name": "g", "parameters": {}}'


def read(text: str, tools=TOOLS) -> list[tuple[str, ...]]:
    case = Case(Llama3(), text, tools)
    pieces = plain(case.read()[0])
    assert plain(case.read(every_char(text))[0]) == pieces
    for at in range(len(text)):
        assert plain(case.read([at])[0]) == pieces
    return pieces


@pytest.mark.parametrize(
    "text, pieces",
    [
        (CALL_F, [F]),
        (f"\n {CALL_F}", [F]),
        (f"<|python_tag|>{CALL_F}", [F]),
        (f"<|python_tag|> {CALL_F}; {CALL_G}", [F, G]),
        (f"{CALL_F};{CALL_G}; ", [F, G, ("said", "; ")]),
        (f"{CALL_F}\nDone", [F, ("said", "\nDone")]),
        (f"So <|python_tag|>{CALL_G}", [("said", "So "), G]),
        ('{"type": "function", "name": "f", "arguments": {"a": 1}}', [F]),
        ('{"parameters": {"a": 1}, "name": "f"}', [F]),
        ('{"name": "g"}', [G]),
        ('{"name": "note", "parameters": {"input": "{"}}', [("call", "note", "{")]),
        ('{"name": "sql"}\n<input>\nSELECT 1\n</input>', [("call", "sql", "SELECT 1")]),
        ("", []),
    ],
)
def test_what_a_text_means(text, pieces):
    assert read(text) == pieces


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"a": 1}',
        '{"name": "Bob", "age": 5}',
        '{"name": "f", "parameters": {"a": 1}, "more": 1}',
        '{"name": "f", "parameters": {"a": 1}, "arguments": {}}',
        '{"name": "f", "parameters": "x"}',
        '{"name": "f", "parameters": {"a": 1}',
        '{"name": "unknown", "parameters": {}}',
        '{"type": "function", "parameters": {}}',
        '<|python_tag|>brave_search.call(query="x")',
        "<|python_tag|>",
        f"So {CALL_F}",
        f"[{CALL_F}]",
    ],
)
@pytest.mark.parametrize("before", ["", "\n "])
def test_what_is_no_call_stays_as_it_was_written(text, before):
    assert read(before + text) == [("said", before + text)]


def test_without_tools_an_object_is_text():
    assert read(CALL_F, {}) == [("said", CALL_F)]


def test_an_object_that_can_be_no_call_is_not_held_back():
    splitter = Case(Llama3(), "", TOOLS).splitter()
    assert "".join(text for _, text in plain(splitter.push('{"city": "Pa'))) == '{"city": "Pa'


def test_guaranteed_arguments_come_while_they_are_written():
    splitter = Case(Llama3(), "", TOOLS, {"guaranteed": True}).splitter()
    pieces = [piece for char in CALL_F for piece in splitter.push(char)]
    assert isinstance(pieces[0], Called) and [p.text for p in pieces[1:]] == ['{"', *'a": 1}']


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
STRICT = Tool(name="f", parameters=SCHEMA, strict=True)
G_TOOL = Tool(name="g")


def test_where_calls_are_free_no_text_can_hide_one():
    """A grammar of text and calls binds every text that would be read as a call."""
    bound = speech(Llama3(), tools=ToolRule(tools=(STRICT, G_TOOL))).constraint
    assert bound is not None
    for text in (
        "",
        " ",
        "text",
        "< b",
        "a { b",
        f"so {CALL_F}",
        f"so <|python_tag|>{CALL_F}",
        CALL_F,
        f"{CALL_F}; {CALL_G}",
    ):
        assert takes(bound.kind, bound.text, text), text
    wrong = json.dumps({"name": "f", "parameters": {"a": "x"}})
    for text in (
        "{",
        "{}",
        wrong,
        f" {wrong}",
        f" {CALL_F}",
        f"<|python_tag|>{wrong}",
        f"so <|python_tag|>{wrong}",
        f"<<|python_tag|>{wrong}",
    ):
        assert not takes(bound.kind, bound.text, text), text
