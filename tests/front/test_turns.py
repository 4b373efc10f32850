"""Conversations in other shapes: nothing is lost, and what already has the shape stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixmill.front.dialects import GENERIC, THINKING
from radixmill.front.dialects.turns import (
    STEPS,
    calls_apart,
    folded,
    in_order,
    indexed_ids,
    joined,
    led,
    nine_ids,
    one_call,
    spaced,
    thoughts_apart,
    ways,
)

Message = dict[str, Any]


def said(role: str, content: Any, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def call(id: str | None, name: str = "f") -> Message:
    return {**({"id": id} if id else {}), "type": "function", "function": {"name": name, "arguments": "{}"}}


def calls(*ids: str | None, content: Any = None) -> Message:
    return said("assistant", content, tool_calls=[call(id, f"f{i}") for i, id in enumerate(ids)])


def result(id: str | None, content: str = "r") -> Message:
    return {"role": "tool", "content": content, **({"tool_call_id": id} if id else {})}


def ids(messages: list[Message]) -> list[Any]:
    return [[one["id"] for one in m["tool_calls"]] if m.get("tool_calls") else m.get("tool_call_id") for m in messages]


# Thoughts.

APART = [
    ("<think>why</think>so", "why", "so"),
    ("<think>\nwhy\n</think>\n\nso\n", "why", "so\n"),
    ("\n<think>\nwhy</think>", "why", ""),
    ("<think>why", "why", ""),
    ("<think>", "", ""),
    ("<think>why</think>so <think>b</think>c", "why", "so <think>b</think>c"),
]


@pytest.mark.parametrize("content, thoughts, rest", APART)
def test_thoughts_that_stand_in_contents(content: str, thoughts: str, rest: str) -> None:
    told = thoughts_apart(THINKING, said("assistant", content))
    assert told == said("assistant", rest, reasoning_content=thoughts)
    parts = [{"type": "text", "text": content}]
    assert thoughts_apart(THINKING, said("assistant", parts))["reasoning_content"] == thoughts


def test_thoughts_whose_opener_was_the_prompts() -> None:
    message = said("assistant", "why\n</think>\n\nso")
    assert thoughts_apart(THINKING, message, opened=True) == said("assistant", "so", reasoning_content="why")
    assert thoughts_apart(THINKING, message) == {**message, "reasoning_content": ""}


@pytest.mark.parametrize(
    "message",
    [
        said("user", "<think>why</think>so"),
        said("system", "<think>why</think>so"),
        said("assistant", "so"),
        said("assistant", None),
        said("assistant", "so <think>"),
        said("assistant", "<think>a</think>b", reasoning_content="c"),
    ],
)
def test_other_contents_stay(message: Message) -> None:
    assert thoughts_apart(THINKING, message) == message


def test_a_family_without_thoughts_has_none() -> None:
    message = said("assistant", "<think>why</think>so")
    assert thoughts_apart(GENERIC, message) == message


# Ids.


def test_nine() -> None:
    messages = [calls("call_1", "abcDEF123"), result("abcDEF123"), result("call_1"), calls("x"), result("x")]
    told = ids(nine_ids(messages))
    first, second, third = told[0][0], told[0][1], told[3][0]
    assert second == "abcDEF123" and told == [[first, second], second, first, [third], third]
    assert all(len(id) == 9 and id.isalnum() for id in (first, third)) and len({first, second, third}) == 3
    assert ids(nine_ids(nine_ids(messages))) == told


def test_ids_that_nobody_gave() -> None:
    told = ids(nine_ids([calls(None, None), result(None), result(None), calls(None), result(None)]))
    (first, second), third = told[0], told[3][0]
    assert told == [[first, second], first, second, [third], third] and len({first, second, third}) == 3


def test_indexed() -> None:
    messages = [calls("a", "b"), result("b"), result("a"), said("user", "u"), calls("c"), result("c")]
    one, two, three = "functions.f0:0", "functions.f1:1", "functions.f0:2"
    assert ids(indexed_ids(messages)) == [[one, two], two, one, None, [three], three]
    assert indexed_ids(indexed_ids(messages)) == indexed_ids(messages)


# Turns.


def test_one_call_in_a_message() -> None:
    first, second = call("a", "f0"), call("b", "f1")
    told = one_call([said("user", "q"), calls("a", "b", content="well"), result("b", "B"), result("a", "A")])
    assert told == [
        said("user", "q"),
        said("assistant", "well", tool_calls=[first]),
        result("a", "A"),
        said("assistant", None, tool_calls=[second]),
        result("b", "B"),
    ]
    assert one_call([calls("a"), result("a")]) == [calls("a"), result("a")]
    nameless = one_call([calls(None, None), result(None, "A"), result(None, "B"), result(None, "C")])
    assert [m["content"] for m in nameless] == [None, "A", None, "B", "C"]


def test_results_in_order() -> None:
    mixed = [calls("a", "b"), result("b"), result("a"), said("user", "x")]
    assert in_order(mixed) == [mixed[0], mixed[2], mixed[1], mixed[3]]
    strange = [calls("a", "b"), result("b"), result("z")]
    assert in_order(strange) == strange


def test_joined() -> None:
    parts = [{"type": "text", "text": "b"}]
    assert joined([said("user", "a"), said("user", "b"), said("assistant", "c")]) == [
        said("user", "a\n\nb"),
        said("assistant", "c"),
    ]
    assert joined([said("user", "a"), said("user", parts)])[0]["content"] == [{"type": "text", "text": "a"}, *parts]
    thoughts = [said("assistant", "a", reasoning_content="x"), {**calls("i"), "reasoning_content": "y"}]
    assert joined(thoughts) == [{**calls("i", content="a"), "reasoning_content": "x\n\ny"}]
    apart = [calls("i"), result("i"), result("j"), calls("k"), said("assistant", "e")]
    assert joined(apart) == apart


def test_folded() -> None:
    told = folded([said("system", "s"), said("user", "u"), said("system", "t"), said("assistant", "a")])
    assert told == [said("user", "s\n\nu"), said("assistant", "a"), said("user", "t")]


def test_led_apart_and_spaced() -> None:
    assert led([said("system", "a"), said("user", "u"), said("developer", "b")]) == [
        said("system", "a\n\nb"),
        said("user", "u"),
    ]
    assert calls_apart([calls("i", content="well")]) == [said("assistant", "well"), calls("i")]
    assert spaced([said("system", "s"), said("assistant", "a"), result("i"), said("user", "u")]) == [
        said("system", "s"),
        said("user", ""),
        said("assistant", "a"),
        result("i"),
        said("assistant", ""),
        said("user", "u"),
    ]


TEXTS = st.text("ab", min_size=1, max_size=3)
MESSAGES = st.lists(
    st.one_of(
        st.builds(said, st.sampled_from(["system", "user", "assistant"]), TEXTS),
        st.lists(st.sampled_from(["a", "b", "abcdefghi", None]), min_size=1, max_size=3, unique=True).map(
            lambda ids: calls(*ids)
        ),
        st.builds(result, st.sampled_from(["a", "b", "abcdefghi", None]), TEXTS),
    ),
    max_size=8,
)


def told_texts(messages: list[Message]) -> list[str]:
    return sorted("".join(str(m.get("content") or "") for m in messages).replace("\n", ""))


def called(messages: list[Message]) -> int:
    return sum(len(m.get("tool_calls") or ()) for m in messages)


@given(MESSAGES)
def test_nothing_is_lost(messages: list[Message]) -> None:
    kept = [dict(m) for m in messages]
    for step in (*STEPS, in_order, led, calls_apart, indexed_ids, *ways(lambda: messages)):
        told = step(messages)
        assert told_texts(told) == told_texts(messages) and called(told) == called(messages)
        assert messages == kept


def test_the_first_way_is_as_it_is() -> None:
    messages = [said("user", "u")]
    assert [way(messages) for way in ways(lambda: messages)] == [messages]
    asked = iter(ways(lambda: pytest.fail("asked too soon")))
    assert next(asked)(messages) == messages
