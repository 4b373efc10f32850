"""The dialect in docs/add-a-dialect.md is all that it takes, and the tables of the pages are the code's."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest

from radixmill.front.dialects import FAMILIES, Dialect, Thoughts
from radixmill.front.dialects import reference as families_page
from radixmill.front.dialects.calls.base import Tags
from radixmill.front.dialects.calls.json_object import JsonObject
from radixmill.front.dialects.proof import CALLS, documented, prove, stated
from radixmill.front.session import Ask, ChatPrompt, Tool, ToolRule
from radixmill.front.session.speech import Speech
from tests.data import ROOT
from tests.engine.grammar_kit import takes
from tests.front import behaviours, fuzz, test_behaviours
from tests.front.dialect_kit import NOTHING, WEATHER, Case, plain

PAGE = ROOT / "docs" / "add-a-dialect.md"
USERS_PAGE = ROOT / "docs" / "reasoning-and-tools.md"
MOST_LINES = 12


@cache
def source() -> str:
    (block,) = re.findall(r"```python\n(class .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return block


@cache
def made_up() -> Dialect:
    names = {"Dialect": Dialect, "Thoughts": Thoughts, "JsonObject": JsonObject, "Tags": Tags}
    exec(source(), names)
    (family,) = [
        one
        for name, one in names.items()
        if name not in ("Dialect", "Thoughts", "JsonObject", "Tags") and name != "__builtins__"
    ]
    return family()


def test_it_is_one_class_of_few_lines():
    lines = source().strip().splitlines()
    assert len(lines) <= MOST_LINES
    assert sum(line.startswith("class ") for line in lines) == 1 and all(
        line.startswith((" ", "class ")) or not line for line in lines
    )
    assert type(made_up()) not in FAMILIES


def test_it_is_proved():
    proofs = prove(made_up(), [documented(made_up())], {"thoughts": "text", "calls": "text"})
    proofs += prove(made_up(), [stated(made_up())], {"calls": "text"})
    assert all(proof.passed for proof in proofs), proofs


def test_what_it_writes_it_reads():
    text = made_up().calls.all_written(CALLS)
    assert text == made_up().example.partition("</muse>")[2]
    assert plain(Case(made_up(), text).read()[0]) == [("call", name, json.dumps(given)) for name, given in CALLS]


@pytest.mark.parametrize("behaviour", behaviours.TABLE.values(), ids=lambda one: one.name)
def test_it_behaves_as_all_families_do(behaviour):
    for check in (test_behaviours.test_in_any_portions, test_behaviours.test_through_a_session):
        for tokens in (False, True):
            try:
                check(made_up(), behaviour, tokens)
            except pytest.skip.Exception:
                continue


def test_random_texts_of_it():
    assert not list(fuzz.faults(made_up(), 1000, seed=1))


def bound(choice: str, **tool: bool) -> str:
    rule = ToolRule(
        tools=(Tool(name="get_weather", parameters=WEATHER, **tool), Tool(name="now", parameters=NOTHING, **tool)),
        choice=choice,
    )
    chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))
    constraint = Speech(Ask(id="q", model="m", prompts=(chat,), tools=rule), made_up(), "may").constraint
    assert constraint is not None
    return constraint.text


def test_the_engine_takes_what_its_grammar_says():
    calls, wrong = made_up().example, made_up().example.replace("3}", '"3"}')
    for grammar in (bound("required"), bound("auto", strict=True)):
        assert takes("structural_tag", grammar, calls)
        assert not takes("structural_tag", grammar, wrong)
    assert takes("structural_tag", bound("auto", strict=True), "<muse>why</muse>so")
    assert not takes("structural_tag", bound("required"), "<muse>why</muse>so")


def test_the_table_of_families_is_current():
    text = USERS_PAGE.read_text(encoding="utf-8")
    assert text.count(families_page.MARKER) == 1
    assert text == families_page.renewed(text), (
        "run python -m radixmill.front.dialects.reference docs/reasoning-and-tools.md"
    )


def test_the_table_has_every_family_and_its_names():
    rows = families_page.table().splitlines()[2:]
    assert len(rows) == len(FAMILIES)
    for family, row in zip(FAMILIES, rows, strict=True):
        cells = re.split(r"(?<!\\)\|", row)[1:-1]
        assert len(cells) == 6 and cells[0].strip() == family.__name__
        assert all(f"`{name}`" in row for name in (*family.reasoning_parsers, *family.tool_call_parsers))
