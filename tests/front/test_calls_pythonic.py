"""Calls as Python writes them, and its literals."""

from __future__ import annotations

import ast
import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.front.dialects import Callee
from radixmill.front.dialects.calls.python_literal import literal
from radixmill.front.dialects.extent import MAX_DEPTH
from radixmill.front.dialects.families import Gemma4, Llama4
from radixmill.front.dialects.scan import Malformed, Scan
from radixmill.front.session import Tool, ToolRule
from tests.engine.grammar_kit import takes
from tests.front.dialect_kit import Case, every_char, plain
from tests.front.test_session_grammar import speech

TOOLS = {"f": Callee(), "g": Callee(), "note": Callee("input"), "sql": Callee("text")}
F, G = ("call", "f", '{"a": 1}'), ("call", "g", "{}")


def read(text: str, **rules) -> list[tuple[str, ...]]:
    case = Case(Llama4(), text, TOOLS, rules)
    pieces = plain(case.read()[0])
    assert plain(case.read(every_char(text))[0]) == pieces
    for at in range(len(text)):
        assert plain(case.read([at])[0]) == pieces
    return pieces


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("[f(a=1)]", [F]),
        ("[f(a=1), g()]", [F, G]),
        ("\n[f( a = 1 , ),\n g( )]\n", [F, G]),
        ("<|python_start|>[f(a=1)]<|python_end|>", [F]),
        ("<|python_start|>\n[f(a=1)] so", [F, ("said", " so")]),
        ("So [f(a=1)] and [g()]", [("said", "So "), F, ("said", " and "), G]),
        ("[f(a='it\\'s', b=True, c=None, d=(1, 2), e={'k': [1.5]})]",
         [("call", "f", '{"a": "it\'s", "b": true, "c": null, "d": [1, 2], "e": {"k": [1.5]}}')]),
        ('[f(a="\\u00e9", b=true, c=null)]', [("call", "f", '{"a": "\\u00e9", "b": true, "c": null}')]),
        ('[f(a="x, y)]")]', [("call", "f", '{"a": "x, y)]"}')]),
        ('[f(**{"a": 1})]', [F]),
        ("[f(**{})]", [("call", "f", "{}")]),
        ("[note(input='a\\nb')]", [("call", "note", "a\nb")]),
        ("[sql(\n<input>\nSELECT 1\n</input>), g()]", [("call", "sql", "SELECT 1"), G]),
        ("[1, 2]", [("said", "[1, 2]")]),
        ("[f(a=1)", [("said", "[f(a=1)")]),
        ('[f(a={"\\ud83d\\ude00": 1})]', [("call", "f", '{"a": {"😀": 1}}')]),
    ],
)  # fmt: skip
def test_what_a_text_means(text, pieces):
    assert read(text) == pieces


@pytest.mark.parametrize(
    "number", ["0x" + "f" * 300, "+" + "9" * 400, "1_0" + "0" * 400, "9" * 5000, "0x" + "f" * 5000]
)
def test_numbers_beyond_all_bounds_are_none(number):
    for dialect, text in ((Llama4(), f"[f(a={number})]"), (Gemma4(), f"<|tool_call>call:f{{a:{number}}}<tool_call|>")):
        assert plain(Case(dialect, text, TOOLS).read()[0]) == [("said", text)]


def test_a_key_with_half_a_character_is_none():
    assert read(text := '[f(a={"\\ud800": 1})]') == [("said", text)]


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        "[f]",
        "[f(1)]",
        "[ f(a=1)]",
        "[f(a=x)]",
        "[f(a=1 b=2)]",
        "[f(a=1, a=2)]",
        "[f(a=1)g()]",
        "[f(a=1), unknown()]",
        "[unknown(), f(a=1)]",
        "[f(a=g())]",
        '[f(a="\n")]',
        "[f(a=b'x')]",
        "[f(**[1])]",
        '[f(**{"a": 1}, b=2)]',
        "[f(a={1: 2})]",
        "[f(a={1, 2})]",
        "f(a=1)",
        "[link](https://example.org)",
        "<|python_start|>f(a=1)<|python_end|>",
        "[f(a=" + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + ")]",
    ],
)
def test_what_is_no_list_of_calls_stays_as_it_was_written(text):
    for before in ("", " ", "So "):
        case = Case(Llama4(), before + text, TOOLS)
        assert plain(case.read()[0]) == plain(case.read(every_char(case.text))[0]) == [("said", case.text)]


def test_a_list_that_is_none_is_told_at_once():
    splitter = Case(Llama4(), "", TOOLS).splitter()
    assert "".join(part[1] for part in plain(splitter.push("[see the "))) == "[see the "
    assert "".join(part[1] for part in plain(splitter.push("[other("))) == "[other("


def test_all_calls_of_a_list_come_at_once():
    splitter = Case(Llama4(), "", TOOLS).splitter()
    assert splitter.push("[f(a=1), g()") == [] and plain(splitter.push("]")) == [F, G]


def test_guaranteed_arguments_come_while_they_are_written():
    splitter = Case(Llama4(), "", TOOLS, {"guaranteed": True}).splitter()
    assert plain(splitter.push("[f(a=1, b=")) == [("call", "f", '{"a": 1')]
    splitter.push("2), g()]")
    assert splitter.calls == 2 and not splitter.inside_call


# --- literals


def meaning(text: str, size: int = 0) -> object:
    """What the reader makes of a text that comes in parts of `size` characters; nothing may stand behind it."""
    scan = Scan()
    reader = literal(scan)
    scan.text, scan.last = text[: size or len(text)], not size
    while True:
        try:
            next(reader)
        except StopIteration as end:
            if scan.at < len(text):
                raise Malformed from None
            return json.loads(end.value)
        more = len(scan.text) + size
        scan.text, scan.last = text[:more], more > len(text)


def oracle(text: str) -> object:
    """What Python makes of it, as JSON has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return json.loads(json.dumps(ast.literal_eval(text), allow_nan=False))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
WHOLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(WHOLE, st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_what_python_writes_means_the_same(value, size):
    assert meaning(repr(value), size) == oracle(repr(value))
    assert meaning(json.dumps(value), size) == json.loads(json.dumps(value))


PARTS = st.sampled_from([*"'\"\\nxuUN{}[](),:#. \t-+_0178aebEfTrue", "True", "None", "\\n", "\\x41", "\\u00e9", "\\N{DASH}", "\\101", "\\d", '"""', "1.", "0x", "1e5", "{'a': ", "é"])  # fmt: skip


@given(st.lists(PARTS, max_size=7).map("".join), st.integers(0, 3))
@settings(max_examples=1500, deadline=None)
def test_what_the_reader_takes_python_takes(text, size):
    """Unless it is JSON; and it refuses nothing that JSON can hold but what it says it refuses."""
    try:
        found = meaning(text, size)
    except Malformed:
        return
    try:
        assert found == json.loads(text)
    except ValueError:
        assert found == oracle(text)


@pytest.mark.parametrize(
    "text, value",
    [
        ("'a\\'b'", "a'b"),
        ("'\\x41\\101\\N{BULLET}\\\n'", "AA•"),
        ("'\\d'", "\\d"),
        ('"\\/"', "/"),
        ("'\\/'", "\\/"),
        ("'\\ud83d\\ude00'", "😀"),
        ("'''a\nb'''", "a\nb"),
        ('""', ""),
        ("''''a'''", "'a"),
        ("0x1F", 31),
        ("1_000", 1000),
        ("+1", 1),
        ("1.", 1.0),
        ("-.5", -0.5),
        ("(1)", 1),
        ("(1,)", [1]),
        ("()", []),
        ("[1,]", [1]),
        ("{'a': 1, 'a': 2,}", {"a": 2}),
        ("{'a': true, \"b\": False}", {"a": True, "b": False}),
    ],
)
def test_literals(text, value):
    assert meaning(text) == meaning(text, 1) == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "'", "'a", "'\n'", "'\\x4'", "'\\u12'", "'\\N{NO SUCH}'", "'\\ud800'", "01", "0777", "1__0", "1e999x", "nan", "inf",
     "-inf", "1j", "b'x'", "r'x'", "f'x'", "[1", "[,]", "(,)", "{1: 2}", "{'a'}", "{'a': }", "...", "1 + 1", "--1", "٣"],
)  # fmt: skip
def test_no_literals(text):
    for size in (0, 1):
        with pytest.raises(Malformed):
            meaning(text, size)


# --- grammar

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["b"]}
OPEN = {"type": "object", "minProperties": 1}
RULE = ToolRule(tools=(Tool(name="f", parameters=SCHEMA, strict=True), Tool(name="g", parameters=OPEN, strict=True)))


def test_what_the_grammar_takes():
    bound = speech(Llama4(), tools=RULE).constraint
    assert bound is not None
    good = ["", "text", "[1] a [b]", '[f(a=1, b="x")]', '[f(b="x"), g(**{"k": 1})]', 'So [f(b="x")].', "[[1]]"]
    bad = ["[f()]", "[f(b=1)]", '[f(b="x", a=1)]', "[g()]", "[g(**{})]", "So [f(a=1)]", "[unknown()]", '[f(b="x")']
    for text in good:
        assert takes(bound.kind, bound.text, text), text
    for text in bad:
        assert not takes(bound.kind, bound.text, text), text
