"""Every family's calls beside an answer that the client's constraint binds, and in text whose calls are bound."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from radixmill.core.request import Constraint
from radixmill.front.dialects import FAMILIES, Dialect, joined
from radixmill.front.dialects.families import GptOss, Hunyuan, InternS1, Llama3, Llama4
from radixmill.front.session import Tool, ToolRule
from radixmill.front.session.speech import Speech
from tests.engine.grammar_kit import HARMONY, VOCABULARY, refusal, takes
from tests.front.dialect_kit import plain
from tests.front.test_session_grammar import speech

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOLS = (Tool(name="f", parameters=SCHEMA, strict=True), Tool(name="t", parameters=SCHEMA, strict=True))
ANY_OBJECT = Constraint(kind="json_schema", text='{"type": "object"}')
ANY_JSON = Constraint(kind="json_schema", text="true")


def auto(family: type[Dialect], constraint: Constraint | None = None, think: bool = False) -> Speech:
    dialect = family() if think else family(think=None)
    return speech(dialect, "may" if think else "not", tools=ToolRule(tools=TOOLS), constraint=constraint)


def allows(bound: Speech, text: str) -> bool:
    assert bound.constraint is not None
    assert refusal("structural_tag", bound.constraint.text) is None
    return takes("structural_tag", bound.constraint.text, text)


def found(bound: Speech, text: str) -> list[tuple[str, ...]]:
    """What is read, the same however it is cut."""
    whole, each = bound.splitter(), bound.splitter()
    assert whole is not None and each is not None
    pieces = plain(joined(whole.push(text) + whole.finish()))
    assert plain(joined([*(piece for char in text for piece in each.push(char)), *each.finish()])) == pieces
    return pieces


def framed(family: type[Dialect], text: str) -> str:
    """Content as the family marks it."""
    return text if family.answer_bare else "".join(family.answer_opens[:1]) + text


def call(family: type[Dialect], *names: str, n: object = 1) -> str:
    """Calls behind the family's explicit tag, if it has one. What ends an answer is not the grammar's."""
    return family().calls.all_written([(name, {"n": n}) for name in names]).removesuffix("<|call|>")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_of_the_clients_form_or_calls(family):
    objects, values = auto(family, ANY_OBJECT), auto(family, ANY_JSON)
    for text in ("{}", '{"a": 1}', '{"name": "f", "parameters": {"n": "x"}}', '{\n  "name": [true, {"n": null}]\n}'):
        assert allows(objects, framed(family, text)) and found(objects, framed(family, text)) == [("said", text)], text
    for text in ("[false]", "[true, [null]]", "[]", '["f(n=1)"]', "false", '"to=f"', "[\n 1]"):
        assert allows(values, framed(family, text)) and found(values, framed(family, text)) == [("said", text)], text
        assert not allows(objects, framed(family, text)), text
    for bound in (objects, values):
        names = ("f",) if family.one_call else ("f", "t")
        assert allows(bound, call(family, *names))
        assert found(bound, call(family, *names)) == [("call", name, '{"n": 1}') for name in names]
        assert not allows(bound, call(family, "f", n="x")) and not allows(bound, call(family, "g"))
        assert not allows(bound, framed(family, "So")) and not allows(
            bound, framed(family, '{"a": 1} ' + call(family, "f"))
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_within_an_answer_of_the_clients_form_are_its_text(family):
    bound = auto(family, ANY_OBJECT)
    inside = [call(family, "f"), call(family, "f")[:-3], "<tool_call><function=f>", "[f(n=1, oops", "to=f<|message|>{"]
    for text in (json.dumps({"x": one}, ensure_ascii=False) for one in inside):
        assert allows(bound, framed(family, text)) and found(bound, framed(family, text)) == [("said", text)], text


def openers(family: type[Dialect]) -> Iterator[str]:
    """A call with a wrong argument behind each way to begin one."""
    calls = family().calls
    written = call(family, "f", n="x")
    begins = next(tag for tag in calls.openers if written.startswith(tag))
    for opener in (*calls.openers, *calls.first_openers):
        if not opener.startswith("{") and not (family is Llama4 and opener.startswith("<")):
            yield opener + written.removeprefix(begins)
    yield {Llama3: written.removeprefix("<|python_tag|>"), Llama4: f"<|python_start|>{written}"}.get(family, written)


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_in_text_are_bound_however_they_begin(family):
    bound = auto(family)
    assert allows(bound, framed(family, "So")) and allows(bound, call(family, "f"))
    for text in openers(family):
        for before in ("", "x ", "\n"):
            for said in (
                before + text,
                framed(family, before + text),
                framed(family, f"x\n{family.answer_close}{text}"),
            ):
                calls = [part for part in found(bound, said) if part[0] == "call"]
                assert not calls or not allows(bound, said), said


def test_the_openers_beside_the_first_are_read_and_not_written():
    seen = {
        family: any(part[0] == "call" for text in openers(family) for part in found(auto(family), f"x {text}"))
        for family in FAMILIES
    }
    assert all(seen[family] for family in (GptOss, InternS1, Hunyuan, Llama4)) and len(seen) == len(FAMILIES)


def test_parts_of_an_answer_hide_no_calls():
    bound, turn = auto(GptOss, think=True), "<|end|><|start|>assistant"
    assert bound.constraint is not None
    for before in ("<|channel|>analysis<|message|>hm", "<|channel|>commentary<|message|>x"):
        good = before + turn + call(GptOss, "f")
        assert takes("structural_tag", bound.constraint.text, good, HARMONY)
        assert found(bound, good)[-1] == ("call", "f", '{"n": 1}')
        for between in (turn, "<|end|>", "<|start|>assistant", turn + "<|channel|>final<|message|>"):
            bad = before + between + call(GptOss, "f", n="x")
            for vocabulary in (HARMONY, VOCABULARY):  # with control tokens, and with tags in letters
                assert not takes("structural_tag", bound.constraint.text, bad, vocabulary), bad


def test_a_list_may_begin_with_a_number_where_no_tool_does():
    named = {name: ToolRule(tools=(Tool(name=name, parameters=SCHEMA, strict=True),)) for name in ("f", "1f", "-é")}
    for name, rule in named.items():
        bound = speech(Llama4(think=None), tools=rule)
        assert allows(bound, "[1] So") == (name != "1f")
        assert allows(bound, f"[{name}(n=1)]") and not allows(bound, f'[{name}(n="x")]')
