"""The grammars that a session makes, in the engine's own hands: they take what the splitter reads as calls, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from radixmill.core.request import Constraint
from radixmill.front.dialects import GENERIC, THINKING, Called, Passed, Said
from radixmill.front.session import Ask, ChatPrompt, Tool, ToolRule
from radixmill.front.session.speech import Speech
from tests.engine.grammar_kit import takes

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
