"""Calls of random tools by real models: arguments are valid, in every family's form, streamed or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from radixmill.front.dialects import Dialect
from radixmill.front.dialects.families import FAMILIES
from radixmill.llm import LLM
from tests.e2e.engine_kit import Live
from tests.e2e.tool_calls import COUNT, WAYS, by_family, fault_of, required, run, tally
from tests.e2e.tool_schemas import tool

FEW = 10  # `make tool-calls` asks for a hundred
CUTS = 1

weights = pytest.mark.weights


@pytest.fixture(scope="module")
def live(smollm2: Path) -> Iterator[Live]:
    with LLM() as llm:
        yield Live(llm)


@pytest.fixture(scope="module")
def other(other_gguf: Path) -> Iterator[Live]:
    with LLM(str(other_gguf)) as llm:
        yield Live(llm)


def test_random_tools_are_the_same_for_the_same_seed_and_have_bounds() -> None:
    assert tool(3) == tool(3) != tool(4)
    for seed in range(COUNT):
        parameters = tool(seed)["function"]["parameters"]
        jsonschema.Draft202012Validator.check_schema(parameters)
        for schema in schemas_in(parameters):
            kind = schema.get("type")
            assert kind != "object" or schema["additionalProperties"] is False
            assert kind != "array" or schema["maxItems"] <= 4
            assert kind not in ("integer", "number") or "maximum" in schema
            assert kind != "string" or {"maxLength", "enum", "format", "pattern"} & set(schema)


def schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    """The schemas that say their type, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value
        value = list(value.values())
    for below in value if isinstance(value, list) else ():
        yield from schemas_in(below)


def test_what_is_wrong_is_found() -> None:
    body = required(0)
    name = body["tools"][0]["function"]["name"]
    call = {"function": {"name": name, "arguments": '{"no such member": 1}'}}
    assert fault_of(body, call) and fault_of(body, {"function": {"name": "unknown", "arguments": "{}"}})
    assert fault_of(body, {"function": {"name": name, "arguments": "{"}})
    said = {"finish_reason": "stop", "message": {"content": "No.", "tool_calls": None}}
    assert tally([body], [said]).wrong


@weights
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["live", "other"])
def test_required_calls_are_valid(request: pytest.FixtureRequest, model: str, way: str) -> None:
    found = run(request.getfixturevalue(model), [required(seed, **WAYS[way]) for seed in range(FEW)])
    assert not found.wrong and found.calls >= FEW - len(found.cut)
    assert len(found.cut) <= CUTS, found


@weights
@pytest.mark.parametrize("temperature", [0, 1])
def test_streamed_calls_are_the_same(live: Live, temperature: float) -> None:
    bodies = [required(seed, temperature=temperature) for seed in range(8)]
    streamed = [{**body, "stream": True, "stream_options": {"include_usage": True}} for body in bodies]
    for whole, folded in zip(live.chats(bodies), live.chats(streamed), strict=True):
        assert parts(whole) == parts(folded)


def parts(choice: dict[str, Any]) -> Any:
    """What must be equal: ids of calls are made from the request's id."""
    message = choice["message"]
    return [call["function"] for call in message["tool_calls"]], message["content"], choice["finish_reason"]


@weights
@pytest.mark.slow
def test_calls_are_valid_in_every_familys_form(live: Live) -> None:
    found = by_family(live, 3)
    assert set(found) == {family.__name__ for family in FAMILIES}
    assert not {name: one.wrong for name, one in found.items() if one.wrong}


@weights
@pytest.mark.slow
def test_strict_tools_are_valid_where_a_model_may_call_them(live: Live) -> None:
    """The tokens of the opening tag are made likely, in any order: now and then it is written, in most of the forms."""
    called = set()
    for family in FAMILIES:
        with live.writing(family()):
            bodies = [tempted(live, family(), seed) for seed in range(4)]
            for body, choice in zip(bodies, live.chats(bodies), strict=True):
                calls = choice["message"].get("tool_calls") or []
                whole = calls[:-1] if choice["finish_reason"] == "length" else calls
                assert not (faults := [fault for call in whole if (fault := fault_of(body, call))]), faults
                called |= {family.__name__} if whole else set()
    assert len(called) >= len(FAMILIES) // 2, called


def tempted(live: Live, family: Dialect, seed: int) -> dict[str, Any]:
    """A chat with strict tools that may be called, and likely are."""
    body = required(seed, tool_choice="auto", max_tokens=192, temperature=1)
    opener = live.llm.session.text.encode(family.calls.openers[0], add_special=False)
    tools = [{**one, "function": {**one["function"], "strict": True}} for one in body["tools"]]
    rules = {"max_thinking_tokens": 16} if family.think else {}
    return {**body, **rules, "tools": tools, "logit_bias": {str(token): 6 for token in opener}}


@weights
def test_a_named_tool_one_of_those_allowed_and_no_second_call(live: Live) -> None:
    first, second = (one["function"]["name"] for one in required(5)["tools"])
    choice = {"type": "function", "function": {"name": second}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": first}}]}
    named, among, alone = live.chats(
        [
            required(5, tool_choice=choice, temperature=1),
            required(5, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}, temperature=1),
            required(5, parallel_tool_calls=False, temperature=1),
        ]
    )
    assert {call["function"]["name"] for call in named["message"]["tool_calls"]} == {second}
    assert {call["function"]["name"] for call in among["message"]["tool_calls"]} == {first}
    assert len(alone["message"]["tool_calls"]) == 1 and alone["finish_reason"] == "tool_calls"
    assert not any(
        fault_of(required(5), call) for one in (named, among, alone) for call in one["message"]["tool_calls"]
    )
