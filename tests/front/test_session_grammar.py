"""The grammars that a session makes, in the engine's own hands: they take what the splitter reads as calls, and no more."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint
from radixmill.front.api.openai.tools import FunctionBody, ToolBody, to_rule
from radixmill.front.dialects import GENERIC, THINKING, Called, Passed, Said
from radixmill.front.session import Ask, ChatPrompt, Tool, ToolRule
from radixmill.front.session.speech import Speech
from tests.engine.grammar_kit import EOS, VOCABULARY, allowed, encode, matcher, refusal, takes

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
F, G = Tool(name="f", parameters=SCHEMA), Tool(name="g")
STRICT = Tool(name="f", parameters=SCHEMA, strict=True)
NOTE = Tool(name="note", custom=True)
SQL = Tool(name="sql", custom=True, format=Constraint(kind="regex", text='SELECT "[a-z]+"'))
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CALL_G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
ODD = '<tool_call>\n{"name": "g", "arguments": {"x": "</tool_call>"}}\n</tool_call>'
WRITTEN = '<tool_call>\n{"name": "note", "arguments": {"input": "a\\n<tool_call>"}}\n</tool_call>'
QUERY = '<tool_call>\n{"name": "sql"}\nSELECT "x"\n</tool_call>'
JSON = Constraint(kind="json_schema", text='{"type": "object", "properties": {"z": {"type": "null"}}}')
YES = Constraint(kind="regex", text="yes|no")


def speech(dialect=GENERIC, thinking="not", **fields: Any) -> Speech:
    chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))
    return Speech(Ask(id="q", model="m", prompts=(chat,), **fields), dialect, thinking)


REQUIRED = ToolRule(tools=(F, G), choice="required")
CASES = [
    (REQUIRED, None, [CALL, CALL_G, f"{CALL}\n{CALL_G}"], ["", "hi", f"x{CALL}", f"{CALL} x", ODD, CALL[:-1], f"{CALL}{CALL}"]),
    (ToolRule(tools=(F, G), choice="required", parallel=False), None, [CALL], [f"{CALL}\n{CALL}"]),
    (ToolRule(tools=(F, G), choice="required", allowed=("g",)), None, [CALL_G], [CALL]),
    (ToolRule(tools=(STRICT, G)), None, ["", "free < text", CALL, f"So: {CALL}\n{ODD} done."], [CALL.replace("1", '"1"'), CALL[:-1]]),
    (ToolRule(tools=(NOTE, SQL), choice="required"), None, [WRITTEN, QUERY], [QUERY.replace("x", "1"), WRITTEN.replace("input", "text")]),
    (ToolRule(tools=(F, SQL)), None, ["text", QUERY, CALL], [QUERY.replace("SELECT", "DROP")]),
    (ToolRule(tools=(F, G)), JSON, [CALL, ODD, '{"z": null}', f"{CALL}\n{CALL_G}"], ["text", '{"z": 1}', f'{CALL}{{"z": null}}']),
    (ToolRule(tools=(F,)), YES, [CALL, "yes", "no"], ["maybe", f"yes{CALL}"]),
    (None, YES, ["yes"], [CALL, ""]),
]  # fmt: skip


@pytest.mark.parametrize("rule, constraint, good, bad", CASES)
@pytest.mark.parametrize("thoughts", ["", "<think>hm\n{}</think>"])
def test_what_the_grammar_takes(rule, constraint, good, bad, thoughts):
    made = speech(THINKING if thoughts else GENERIC, "may" if thoughts else "not", tools=rule, constraint=constraint)
    bound = made.constraint
    for text in good:
        assert takes(bound.kind, bound.text, text), text
        assert takes(bound.kind, bound.text, thoughts + text), text
        assert reads_back(made, thoughts + text), text
    for text in bad:
        assert not takes(bound.kind, bound.text, thoughts + text), text


def reads_back(made: Speech, text: str) -> bool:
    """Whether the splitter finds every call of a text that the grammar took."""
    splitter = made.splitter()
    if splitter is None:
        return True
    pieces = splitter.push(text) + splitter.finish()
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    calls = sum(isinstance(piece, Called) for piece in pieces)
    passed = sum(isinstance(piece, Passed) for piece in pieces)
    return "<tool_call>" not in said and calls == passed and not splitter.inside_call


def test_a_name_that_json_must_escape():
    made = speech(tools=ToolRule(tools=(Tool(name='a"é'),), choice="required"))
    said = '<tool_call>\n{"name": "a\\"é", "arguments": {}}\n</tool_call>'
    assert takes("structural_tag", made.constraint.text, said) and reads_back(made, said)
    called, _ = made.splitter().push(said)
    assert called.name == 'a"é'


VALUES = st.sampled_from([None, True, 1, "x", [], [1], {}, {"a": 1}])
KEYWORDS = {
    "type": st.sampled_from(["object", "array", "string", "null", None, ["object", "string"]]),
    "enum": st.lists(VALUES, max_size=3),
    "const": VALUES,
    "properties": st.just({"a": {"type": "integer"}}),
    "required": st.just(["a"]),
    "additionalProperties": st.booleans(),
    "items": st.just({}),
    "minLength": st.just(1),
    "$defs": st.just({"d": {"type": "string"}, "e": {"properties": {"a": {"$ref": "#/$defs/d"}}}}),
    "$ref": st.sampled_from(["#/$defs/d", "#/$defs/e", "#/properties/a"]),
    "$schema": st.sampled_from(
        ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
    ),
}
SMALL = st.fixed_dictionaries({}, optional=KEYWORDS)
NESTED = st.fixed_dictionaries(
    {}, optional={**KEYWORDS, **{key: st.lists(SMALL, min_size=1, max_size=2) for key in ("anyOf", "allOf", "oneOf")}}
)


@given(NESTED, st.integers())
@settings(max_examples=200, deadline=None)
def test_arguments_of_any_schema_are_objects_or_it_is_refused(parameters, seed):
    try:
        rule = to_rule(
            [ToolBody(type="function", function=FunctionBody(name="f", parameters=parameters))], "required", None
        )
    except BadRequest as fault:
        assert fault.param == "tools[0].function.parameters.type"
        return
    made = speech(tools=rule)
    if refusal("structural_tag", made.constraint.text):
        return
    said = written(made.constraint.text, random.Random(seed))
    pieces = made.splitter().push(said)
    assert not any(isinstance(piece, Said) for piece in pieces), said
    passed = [piece.text for piece in pieces if isinstance(piece, Passed)]
    assert len(passed) == sum(isinstance(piece, Called) for piece in pieces) <= 1
    begun = "".join(passed).lstrip()
    assert begun.startswith("{") or not begun
    if "</tool_call>" in said:
        assert isinstance(json.loads(begun), dict)


def written(grammar: str, random: random.Random, most: int = 400) -> str:
    """A text that the grammar leads to: one call, if it can be ended so soon."""
    match, raw = matcher("structural_tag", grammar), b""
    while len(raw) < most and EOS not in (may := allowed(match)):
        plain = [token for token in may if token < 128]
        closing = [token for token in encode('}]"') if token in may]
        token = random.choice(closing if closing and random.random() < 0.5 else plain or list(may))
        match.push(token)
        raw += VOCABULARY.tokens[token]
    return raw.decode(errors="replace")


@pytest.mark.parametrize(
    "parameters, good, bad",
    [
        ({}, ["{}", '{"a": [1]}'], ["[]", "1", '"x"', "null"]),
        ({"enum": [1, {"a": 2}]}, ['{"a": 2}'], ["1", "{}"]),
        ({"anyOf": [{"type": "string"}, SCHEMA]}, ['{"a": 1}'], ['"x"']),
        ({"$ref": "#/$defs/d", "$defs": {"d": {"properties": {"a": {"type": "null"}}}}}, ['{"a": null}'], ["3", '{"a": 1}']),
    ],
)  # fmt: skip
def test_a_schema_without_a_type_takes_objects(parameters, good, bad):
    made = speech(tools=ToolRule(tools=(Tool(name="f", parameters=parameters),), choice="required"))
    for text in good + bad:
        call = f'<tool_call>\n{{"name": "f", "arguments": {text}}}\n</tool_call>'
        assert takes("structural_tag", made.constraint.text, call) == (text in good), text


@pytest.mark.parametrize(
    "parameters", [{"enum": [1, 2]}, {"const": []}, {"$ref": "#/$defs/d", "$defs": {"d": {"type": "string"}}}]
)
def test_a_schema_that_no_object_matches(parameters):
    made = speech(tools=ToolRule(tools=(Tool(name="f", parameters=parameters, field="tools[0]"),), choice="required"))
    ((field, part),) = made.sources()
    assert field == "tools[0]" and refusal(part.kind, part.text) and refusal("structural_tag", made.constraint.text)
