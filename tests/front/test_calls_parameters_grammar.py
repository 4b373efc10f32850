"""Grammars of calls as parameters: what they take is read back as calls whose arguments their schemas allow."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.request import Constraint
from radixmill.engine.grammar import Matcher, Vocabulary
from radixmill.engine.grammar.compile import to_grammar
from radixmill.engine.grammar.matcher import Start
from radixmill.front.dialects import Called, Callee, Dialect, Passed, Said, Splitter, joined
from radixmill.front.dialects.families import DeepSeekV32, Glm45, Hunyuan, Qwen3Coder, Step3
from radixmill.front.session import Ask, ChatPrompt, Tool, ToolRule
from radixmill.front.session.speech import Speech
from radixmill.front.text import Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.store.gguf import GGUFFile
from tests.data import shared
from tests.engine.grammar_kit import (
    EOS,
    VOCABULARY,
    allowed,
    encode,
    matcher,
    refusal,
    takes,
    tokenizer_of,
    vocabulary_of,
)
from tests.front.test_calls_parameters import FAMILIES, FORMS, TWO, WEATHER, WRITTEN

GET, NOW = Tool(name="get_weather", parameters=WEATHER), Tool(name="now")
LOOSE = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "b": {"type": "string", "pattern": "^x+$", "maxLength": 3},
        "c": {"type": "integer"},
        "d": {"enum": ["one", "two"]},
        "e": {"$ref": "#/$defs/list"},
    },
    "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/item"}}, "item": {"type": "string"}},
}
F = Tool(name="f", parameters=LOOSE)
STRICT = Tool(name="f", parameters=LOOSE, strict=True)
SQL = Tool(name="sql", custom=True, format=Constraint(kind="regex", text='SELECT "[a-z]+"'))
NOTE = Tool(name="note", custom=True)
FREE = Tool(name="free", parameters={"type": "object"})
ODD = Tool(name="odd", parameters={"type": "object", "properties": {"a": {"type": "null"}}, "minProperties": 1})


def speech(family: type[Dialect], **fields: Any) -> Speech:
    chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))
    return Speech(Ask(id="q", model="m", prompts=(chat,), **fields), Dialect(think=None, calls=family.calls), "not")


def read(made: Speech, text: str, step: int = 1000) -> list[tuple[str, str]]:
    """Names and inputs of the calls in a text that is nothing else."""
    splitter = made.splitter()
    pieces = [piece for at in range(0, len(text), step) for piece in splitter.push(text[at : at + step])]
    pieces = joined([*pieces, *splitter.finish()])
    assert not any(isinstance(piece, Said) for piece in pieces), text
    names = [piece.name for piece in pieces if isinstance(piece, Called)]
    given = [piece.text for piece in pieces if isinstance(piece, Passed)]
    assert len(names) == len(given)
    return list(zip(names, given, strict=True))


@FORMS
def test_required_calls(family):
    made = speech(family, tools=ToolRule(tools=(GET, NOW, F), choice="required"))
    assert refusal("structural_tag", made.constraint.text) is None
    forms = family.calls
    for calls in (
        TWO,
        TWO[::-1],
        TWO[1:],
        [("f", {})],
        [("f", {"a": "x\n<y>"}), ("now", {})],
        [("f", {"c": 1})],
        [("f", {"a": "", "c": 1, "e": ["</parameter>"]})],
        [("f", {"b": "xxx", "d": "two"}), ("f", {"d": "one", "e": []})],
    ):
        text = forms.all_written(calls)
        assert takes("structural_tag", made.constraint.text, text), text
        assert [(name, json.loads(given)) for name, given in read(made, text)] == calls
        assert read(made, text, 1) == read(made, text)
    for calls in (
        [("get_weather", {"city": "Paris"})],
        [("get_weather", {"city": "Paris", "days": "x"})],
        [("get_weather", {"days": 3, "city": "Paris"})],
        [("f", {"b": "y"})],
        [("f", {"b": "xxxx"})],
        [("f", {"d": "three"})],
        [("f", {"e": [1]})],
        [("f", {"a": f"x{forms.value.close}"})],
        [("f", {"z": 1})],
        [("now", {"a": 1})],
        [("g", {})],
    ):
        assert not takes("structural_tag", made.constraint.text, forms.all_written(calls)), calls
    assert not takes("structural_tag", made.constraint.text, "hi")


@FORMS
def test_one_call_at_most(family):
    made = speech(family, tools=ToolRule(tools=(GET, NOW), choice="required", parallel=False))
    assert takes("structural_tag", made.constraint.text, family.calls.all_written(TWO[:1]))
    assert not takes("structural_tag", made.constraint.text, WRITTEN[family])


@FORMS
def test_calls_among_text(family):
    """A tool that is strict is bound, others take any parameters."""
    made, calls = speech(family, tools=ToolRule(tools=(STRICT, GET))), family.calls
    any_city = [("get_weather", {"q": "x", "n": {"a": 1}} if not calls.json_value else {"q": "x"})]
    for text in ("", "free < text", calls.all_written([("f", {"a": "x"})]), f"So: {calls.all_written(any_city)}"):
        assert takes("structural_tag", made.constraint.text, text), text
    assert read(made, calls.all_written(any_city)) == [("get_weather", json.dumps(any_city[0][1]))]
    assert not takes("structural_tag", made.constraint.text, calls.all_written([("f", {"q": "x"})]))


@FORMS
def test_free_input_and_odd_schemas(family):
    made = speech(family, tools=ToolRule(tools=(SQL, NOTE, FREE, ODD), choice="required"))
    calls, text = family.calls, made.constraint.text
    section = calls.around
    for said, call in (
        (f'{calls.head("sql", "text")}SELECT "x"{calls.tail("text")}', ("sql", 'SELECT "x"')),
        (calls.written("note", {"input": 'a\n"b"'}), ("note", 'a\n"b"')),
        (calls.written("free", {}), ("free", "{}")),
        (calls.written("free", {"a": "x", "b": "1"}), None),
        (f'{calls.head("odd")}{{"a": null}}{calls.line}{calls.tail()}', ("odd", '{"a": null}')),
    ):
        whole = f"{section.open}{said}{section.close}"
        assert takes("structural_tag", text, whole), whole
        assert call is None or read(made, whole) == [call]
    for said in (
        f"{calls.head('sql', 'text')}DROP{calls.tail('text')}",
        calls.written("note", {"text": "x"}),
        calls.written("odd", {}),
        calls.written("odd", {"a": None}),
    ):
        assert not takes("structural_tag", text, f"{section.open}{said}{section.close}"), said


PROPERTIES = st.sampled_from([
    {"type": "string"},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^a[^b]*$", "maxLength": 5},
    {"type": "string", "format": "date"},
    {"type": "string", "not": {"enum": ["", "x"]}, "maxLength": 4},
    {"enum": ["a", "b\n<", ""]},
    {"const": "1"},
    {"type": "integer"},
    {"type": ["integer", "string"], "maxLength": 3},
    {"type": ["string", "null"], "enum": [None, "a"]},
    {"type": "boolean"},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    {"$ref": "#/$defs/word"},
    {"$ref": "#/$defs/pair"},
    {"anyOf": [{"$ref": "#/$defs/word"}, {"type": "null"}]},
    {"allOf": [{"$ref": "#/$defs/word"}, {"maxLength": 2}]},
])  # fmt: skip
DEFINITIONS = {
    "word": {"type": "string", "pattern": "^[a-z<]{1,3}$"},
    "pair": {
        "type": "object",
        "properties": {"w": {"$ref": "#/$defs/word"}},
        "required": ["w"],
        "additionalProperties": False,
    },
}


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(["a", "ab", "b", "é", "x y", 'q"', "in<", "g>"]), max_size=4, unique=True))
    schema: dict[str, Any] = {"type": "object", "properties": {name: draw(PROPERTIES) for name in names}}
    if required := [name for name in names if draw(st.booleans())]:
        schema["required"] = required
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    if draw(st.integers(0, 5)) == 0:
        schema["minProperties"] = len(required)
    return {**schema, "$defs": DEFINITIONS}


@given(st.sampled_from(FAMILIES), schemas(), st.integers())
@settings(max_examples=150, deadline=None)
def test_what_the_grammar_leads_to_is_read_and_valid(family, schema, seed):
    made = speech(family, tools=ToolRule(tools=(Tool(name="f", parameters=schema),), choice="required"))
    assert refusal("structural_tag", made.constraint.text) is None
    text, ended = written(made.constraint.text, random.Random(seed))
    if not ended:
        return
    calls = read(made, text)
    assert read(made, text, 1) == calls and calls
    for _, passed in calls:
        jsonschema.Draft202012Validator(schema).validate(json.loads(passed))


def written(grammar: str, random: random.Random, most: int = 1500) -> tuple[str, bool]:
    """A text that the grammar leads to, and whether it may end there. Closing characters are taken more often."""
    match, raw = matcher("structural_tag", grammar), b""
    while len(raw) < most:
        may = allowed(match)
        if EOS in may:
            return raw.decode(), True
        plain = [token for token in may if token < 128]
        closing = [token for token in encode('</}]"') if token in may]
        token = random.choice(closing if closing and random.random() < 0.6 else plain or [t for t in may if t < 256])
        match.push(token)
        raw += VOCABULARY.tokens[token]
    return raw.decode(errors="replace"), False


CONTROL = {
    Glm45: ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    Hunyuan: ("<tool_calls>", "</tool_calls>", "<tool_call>", "</tool_call>", "<tool_sep>", "</arg_value>"),
    Qwen3Coder: ("<tool_call>", "</tool_call>"),
    DeepSeekV32: ("｜DSML｜",),
    Step3: (
        "<｜tool_calls_begin｜>",
        "<｜tool_call_begin｜>",
        "<｜tool_sep｜>",
        "<｜tool_call_end｜>",
        "<｜tool_calls_end｜>",
    ),
}


@pytest.mark.parametrize("family", CONTROL, ids=lambda family: family.__name__)
def test_tags_that_are_control_tokens(family):
    """The grammar wants the tokens, and letters that look like one may stand in a value."""
    vocabulary = vocabulary_of(["<eos>", *CONTROL[family]], "<eos>")
    made = speech(family, tools=ToolRule(tools=(GET, NOW, F, FREE), choice="required"))
    grammar = made.constraint.text
    for calls in (TWO, TWO[::-1], [("f", {"a": "x", "c": 1, "e": ["y"]})], [("f", {"c": 1}), ("f", {"d": "one"})]):
        assert takes("structural_tag", grammar, family.calls.all_written(calls), vocabulary), calls
    assert takes("structural_tag", grammar, family.calls.all_written([("free", {}), ("now", {})]), vocabulary)
    if not family.calls.json_value:
        assert takes("structural_tag", grammar, family.calls.all_written([("free", {"a": "x", "b": 1})]), vocabulary)
    text = family.calls.all_written(TWO)
    match, at = matcher("structural_tag", grammar, vocabulary=vocabulary), 0
    while (letter := text.encode()[at]) in allowed(match):
        match.push(letter)
        at += 1
    assert any(text.encode()[at:].startswith(tag.encode()) for tag in CONTROL[family]), "a tag spelled is refused"


def test_letters_of_a_control_token_are_text_in_a_value():
    calls = Glm45.calls
    text = calls.written("f", {"a": "x</arg_value>\n</tool_call>"})
    splitter = Splitter(Dialect(think=None, calls=calls), {"f": Callee(parameters=LOOSE)}, exact=CONTROL[Glm45])
    inside = text.index("x</arg_value>"), text.index("x</arg_value>") + len("x</arg_value>\n</tool_call>")
    for tag in CONTROL[Glm45]:
        for found in re.finditer(re.escape(tag), text):
            if not inside[0] <= found.start() < inside[1]:
                splitter.mark(found.start())
    pieces = joined([*splitter.push(text), *splitter.finish()])
    assert [piece.text for piece in pieces if isinstance(piece, Passed)] == [
        json.dumps({"a": "x</arg_value>\n</tool_call>"})
    ]


@pytest.mark.parametrize("family", [Qwen3Coder, Glm45, DeepSeekV32], ids=lambda family: family.__name__)
def test_long_limits_of_text_stay_within_what_a_mask_may_cost(family):
    """With a real vocabulary, whose tokens are longer than bytes."""
    vocabulary = real_vocabulary()
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5000}}, "required": ["a"]}
    made = speech(family, tools=ToolRule(tools=(Tool(name="f", parameters=schema),), choice="required"))
    text = family.calls.all_written([("f", {"a": "The quick brown fox <b> jumps. " * 5})])
    match = Matcher(vocabulary, Start(tokenizer_of(vocabulary), to_grammar(made.constraint, vocabulary)))
    row = np.zeros(vocabulary.words, np.uint32)
    for token in longest(vocabulary, text.encode()):
        match.fill(row)
        assert row[token // 32] >> np.uint32(token % 32) & 1
        match.push(token)


@cache
def real_vocabulary() -> Vocabulary:
    tokenizer = Tokenizer(gguf_vocabulary(GGUFFile(shared("vocab", "ggml-vocab-qwen2.gguf")).metadata))
    tokens = tuple(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))
    return Vocabulary(
        tokens=tokens, control=tokenizer.special_ids, eos_ids=(max(tokenizer.special_ids),), size=len(tokens)
    )


def longest(vocabulary: Vocabulary, text: bytes) -> list[int]:
    """Tokens of a text, each the longest that fits."""
    ids = {raw: i for i, raw in enumerate(vocabulary.tokens) if i not in vocabulary.control}
    found, at = [], 0
    while at < len(text):
        size = next(size for size in range(20, 0, -1) if text[at : at + size] in ids and at + size <= len(text))
        found.append(ids[text[at : at + size]])
        at += size
    return found
