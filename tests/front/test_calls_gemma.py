"""Gemma 4's calls: objects with bare keys and quotes of their own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.front.dialects import Callee
from radixmill.front.dialects.families import Gemma4
from tests.front.dialect_kit import Case, every_char, plain

TOOLS = {"f": Callee(), "g": Callee(), "note": Callee("input"), "sql": Callee("text")}
G = ("call", "g", "{}")
UNQUOTED = 'f{a:<|"|>x}'


def read(text: str) -> list[tuple[str, ...]]:
    case = Case(Gemma4(), text, TOOLS)
    pieces = plain(case.read()[0])
    assert plain(case.read(every_char(text))[0]) == pieces
    for at in range(len(text)):
        assert plain(case.read([at])[0]) == pieces
    return pieces


def call(inside: str) -> str:
    return f"<|tool_call>call:{inside}<tool_call|>"


@pytest.mark.parametrize(
    "inside, arguments",
    [
        ("f{}", "{}"),
        ("f{ }", "{}"),
        ('f{city:<|"|>Paris<|"|>,n:1}', '{"city": "Paris", "n": 1}'),
        ('f{s:<|"|>a "b"\n\\ {c}<tool_call|><|"|>}', '{"s": "a \\"b\\"\\n\\\\ {c}<tool_call|>"}'),
        ('f{o:{k:[1,<|"|>x<|"|>,{}]},b:true,z:null}', '{"o": {"k": [1, "x", {}]}, "b": true, "z": null}'),
        ('f{"city": "Paris", "o": {"k": [1.5e3, -2]}}', '{"city": "Paris", "o": {"k": [1.5e3, -2]}}'),
        ('f{<|"|>a b<|"|>:1}', '{"a b": 1}'),
        ('f { a : <|"|><|"|> }', '{"a": ""}'),
    ],
)
def test_what_a_call_means(inside, arguments):
    assert read(call(inside)) == [("call", "f", arguments)]
    assert json.loads(arguments) is not None


def test_what_a_text_means():
    text = f"<|channel>thought\nwhy<channel|>{call('g{}')}{call('g{}')} so"
    assert read(text) == [("thought", "why"), G, G, ("said", " so")]
    assert read("<|channel>thought\n<channel|>so") == [("said", "so")]
    assert read(call('note{input:<|"|>a\nb<|"|>}')) == [("call", "note", "a\nb")]
    assert read(call('sql{input:<|"|>SELECT {1}<|"|>}')) == [("call", "sql", "SELECT {1}")]
    assert read(call("g{}").removesuffix("<tool_call|>")) == [G]


@pytest.mark.parametrize(
    "inside",
    ["f", "f[]", "f{a}", "f{a:}", "f{a:x}", UNQUOTED, "f{a:1", "f{a:1,a:2}", "f{:1}", "unknown{}", "f{a:1}}", "{}", "f{a:[1}", 'f{a:"\n"}'],
)  # fmt: skip
def test_what_is_no_call_stays_as_it_was_written(inside):
    for text in (call(inside), f" {call(inside)}"):
        assert read(text) == [("said", text)]
    if inside != UNQUOTED:
        assert read(call(inside) + call("g{}"))[-1] == G


KEYS = st.text("abcXYZ_0", min_size=1, max_size=4)
TEXTS = st.text(max_size=6).filter(lambda text: "<" not in text and text.isprintable())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(KEYS, VALUES, max_size=3), st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read(arguments, cuts):
    text = Gemma4().calls.written("f", arguments)
    case = Case(Gemma4(), text, TOOLS)
    ((kind, name, found),) = plain(case.read([cut for cut in cuts if cut < len(text)])[0])
    assert (kind, name, json.loads(found)) == ("call", "f", arguments)


def test_guaranteed_members_come_when_they_are_whole():
    splitter = Case(Gemma4(), "", TOOLS, {"guaranteed": True}).splitter()
    assert plain(splitter.push('<|tool_call>call:f{a:1,b:<|"|>x')) == [("call", "f", '{"a": 1')]
    assert [piece.text for piece in splitter.push('<|"|>}')] == [', "b": "x"', "}"]
