"""Streams of the Messages API: the order of events, and fold(stream) == the answer that is not streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jiter import from_json

from radixmill.core.errors import EngineFailed
from radixmill.front.api.partial import whole_object
from radixmill.front.session import Arguments, Call, Content, End, Event, Reasoning
from tests.front.anthropic_kit import HI, MESSAGES, client_of, fault, parse_events, telling_front
from tests.front.kit import make_front, post

APP, FRONT = make_front()
SESSION = telling_front(FRONT)

WORDS = st.lists(st.sampled_from(["a", " ", "\n", "é", "😀", "<x>"]), max_size=4).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=3)


class Part(NamedTuple):
    """A stretch of one kind: text and thoughts say `text`; of a call it is the arguments."""

    kind: str
    text: str


PARTS = st.one_of(
    WORDS.map(lambda text: Part("text", text)),
    WORDS.map(lambda text: Part("thinking", text)),
    OBJECTS.map(lambda value: Part("tool_use", json.dumps(value))),
)


class Answer(NamedTuple):
    parts: list[Part]
    end: End


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    parts = draw(st.lists(PARTS, max_size=5))
    reasons = [("stop", None), ("stop", "halt"), ("stop", 7), ("length", None), ("abort", None)]
    if any(part.kind == "tool_use" for part in parts):
        reasons.append(("tool_calls", None))
    reason, matched = draw(st.sampled_from(reasons))
    if reason == "length" and parts and parts[-1].kind == "tool_use":
        cut = draw(st.integers(0, len(parts[-1].text)))
        parts[-1] = Part("tool_use", parts[-1].text[:cut])
    return Answer(parts, End(0, reason, matched))


def events_of(answer: Answer, cuts: list[int]) -> Iterator[Event]:
    """The answer's events, its texts cut into pieces of these sizes, over and over."""
    turn = calls = 0
    for part in answer.parts:
        if part.kind == "tool_use":
            calls += 1
            yield Call(0, calls - 1, f"call_{calls}", f"tool{calls}")
        at = 0
        while at < len(part.text):
            piece = part.text[at : at + cuts[turn % len(cuts)]]
            at, turn = at + len(piece), turn + 1
            match part.kind:
                case "text":
                    yield Content(0, piece)
                case "thinking":
                    yield Reasoning(0, piece)
                case _:
                    yield Arguments(0, calls - 1, piece)
    yield answer.end


def grouped(events: list[Event], sizes: list[int]) -> list[tuple[Event, ...]]:
    groups, at = [], 0
    while at < len(events):
        size = sizes[len(groups) % len(sizes)]
        groups.append(tuple(events[at : at + size]))
        at += size
    return groups


def expected(answer: Answer) -> list[dict[str, Any]]:
    """The blocks, said once more and without machines."""
    parts = [part for part in answer.parts if part.text or part.kind == "tool_use"]
    runs: list[Part] = []
    for kind, run in groupby(parts, lambda part: part.kind):
        texts = [part.text for part in run]
        runs += [Part(kind, text) for text in texts] if kind == "tool_use" else [Part(kind, "".join(texts))]
    if len(runs) > 1 or (runs and runs[0].kind != "text"):
        runs = [run for run in runs if run.kind != "text" or run.text.strip()]
        runs = merged(runs)
    calls = iter(range(1, len(runs) + 1))
    return [block(run, calls) for run in runs]


def merged(runs: list[Part]) -> list[Part]:
    """Thoughts that only blanks kept apart are one block."""
    out: list[Part] = []
    for run in runs:
        if out and run.kind == out[-1].kind == "thinking":
            out[-1] = Part(run.kind, out[-1].text + run.text)
        else:
            out.append(run)
    return out


def block(run: Part, calls: Iterator[int]) -> dict[str, Any]:
    match run.kind:
        case "text":
            return {"type": "text", "text": run.text}
        case "thinking":
            return {"type": "thinking", "thinking": run.text, "signature": ""}
        case _:
            index = next(calls)
            input = from_json(run.text.encode() or b"{}", partial_mode=True)
            return {"type": "tool_use", "id": f"toolu_{index}", "name": f"tool{index}", "input": input}


def essence(message: anthropic.types.Message) -> dict[str, Any]:
    """All but the id."""
    return message.model_dump(exclude_unset=True, exclude={"id"}, warnings=False)


CUTS = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def client() -> Iterator[anthropic.Anthropic]:
    with client_of(APP) as made:
        yield made


@given(answers(), CUTS, CUTS)
@settings(max_examples=200, deadline=None)
def test_what_the_official_client_gathers_is_the_whole_answer(client, answer, cuts, sizes):
    SESSION.told = [tuple(events_of(answer, [1000]))]
    whole = essence(client.messages.create(**HI))
    SESSION.told = grouped(list(events_of(answer, cuts)), sizes)
    with client.messages.stream(**HI) as stream:
        gathered = essence(stream.get_final_message())
    assert gathered == whole
    assert whole["content"] == expected(answer)
    assert essence(client.messages.create(**HI)) == whole, "the cuts change nothing"


KIND_OF_DELTA = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}


@given(answers(), CUTS, CUTS)
@settings(max_examples=200, deadline=None)
def test_the_order_of_events(answer, cuts, sizes):
    SESSION.told = grouped(list(events_of(answer, cuts)), sizes)
    events = parse_events(post(APP, MESSAGES, {**HI, "stream": True}).text)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "ping"] and kinds[-2:] == ["message_delta", "message_stop"]
    assert events[0]["message"]["content"] == [] and events[0]["message"]["stop_reason"] is None
    open_, opened = None, 0
    for event in events[2:-2]:
        match event["type"]:
            case "content_block_start":
                assert open_ is None and event["index"] == opened, "one block at a time, in order"
                open_, opened = event["content_block"]["type"], opened + 1
            case "content_block_delta":
                assert event["index"] == opened - 1
                assert KIND_OF_DELTA.get(event["delta"]["type"], "tool_use") == open_
            case kind:
                assert kind == "content_block_stop" and open_ is not None and event["index"] == opened - 1
                open_ = None
    assert open_ is None


def test_a_thinking_block_ends_with_its_signature():
    SESSION.told = [(Reasoning(0, "hm"), Content(0, "yes"), End(0, "stop"))]
    events = parse_events(post(APP, MESSAGES, {**HI, "stream": True}).text)
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": ""},
        {"type": "text_delta", "text": "yes"},
    ]


def test_thoughts_that_are_not_to_be_shown():
    SESSION.told = [(Reasoning(0, "secret"), Reasoning(0, "er"), Content(0, "yes"), End(0, "stop"))]
    body = {**HI, "thinking": {"type": "adaptive", "display": "omitted"}}
    whole, streamed = post(APP, MESSAGES, body), post(APP, MESSAGES, {**body, "stream": True})
    assert whole.json()["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert "secret" not in whole.text + streamed.text and '"thinking_delta"' not in streamed.text


def test_usage():
    SESSION.told = [(Content(0, "yes"), End(0, "stop"))]
    usage = {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 2},
    }
    assert post(APP, MESSAGES, HI).json()["usage"] == usage
    events = parse_events(post(APP, MESSAGES, {**HI, "stream": True}).text)
    assert events[-2]["usage"] == usage


@pytest.mark.parametrize(
    "end, reason, sequence",
    [
        (End(0, "stop"), "end_turn", None),
        (End(0, "stop", 256), "end_turn", None),
        (End(0, "stop", "halt"), "stop_sequence", "halt"),
        (End(0, "length"), "max_tokens", None),
        (End(0, "tool_calls"), "tool_use", None),
        (End(0, "abort"), "max_tokens", None),
    ],
)
def test_stop_reasons(end, reason, sequence):
    SESSION.told = [(Content(0, "a"), end)]
    answer = post(APP, MESSAGES, HI).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)


def test_an_error_on_the_way_is_an_event(client):
    SESSION.told = [(Content(0, "half"),), EngineFailed("kernel 7")]
    response = post(APP, MESSAGES, {**HI, "stream": True})
    assert response.status_code == 200
    last = parse_events(response.text)[-1]
    assert last == {
        "type": "error",
        "error": {"type": "api_error", "message": "kernel 7"},
        "request_id": response.headers["request-id"],
    }
    with pytest.raises(anthropic.APIStatusError, match="kernel 7"), client.messages.stream(**HI) as stream:
        stream.until_done()


def test_an_error_before_the_first_event_is_an_answer():
    SESSION.told = [EngineFailed("kernel 7")]
    for streaming in (False, True):
        assert fault(post(APP, MESSAGES, {**HI, "stream": streaming}), 500, "api_error") == "kernel 7"


@given(OBJECTS, st.booleans(), st.data())
def test_objects_that_break_off(value, ascii, data):
    text = json.dumps(value, ensure_ascii=ascii)
    cut = text[: data.draw(st.integers(1, len(text)))]
    assert json.loads(bytes(whole_object(cut))) == from_json(cut.encode(), partial_mode=True)
    assert bytes(whole_object(text)).decode() == text


@pytest.mark.parametrize("text", ["", "[1]", "null", "nonsense", '"{', "{,}", "}{", "[" * 10_000, '{"a":' * 3000])
def test_what_is_no_object_is_an_empty_one(text):
    assert json.loads(bytes(whole_object(text))) == {}
