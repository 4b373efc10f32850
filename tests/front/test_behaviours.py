"""The table of behaviours for every family: in any portions, through a session, streamed or not, and by HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from radixmill.front.dialects import Called, Dialect, Passed, Piece, Rules, Said, Splitter, Thought, joined
from radixmill.front.session import (
    Arguments,
    Ask,
    Call,
    ChatPrompt,
    Content,
    End,
    Event,
    Front,
    Reasoning,
    Session,
    ToolRule,
    gather,
)
from tests.fakes import EOS, REPLY, SPEC, USER, ByteText, EchoClient
from tests.front.behaviours import BOUND, CALLEES, TABLE, TOOLS, Behaviour, Letters, Row, Writer
from tests.front.dialect_kit import NOTHING, WEATHER, families, name_of
from tests.front.kit import make_front, serving

LITERAL = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]|◁/?\w+▷")  # what looks like a control token in a tag
PAIRS = [
    pytest.param(dialect, one, id=f"{name_of(dialect)}-{one.name}") for dialect in families() for one in TABLE.values()
]
every_pair = pytest.mark.parametrize("dialect, behaviour", PAIRS)


def row_of(dialect: Dialect, behaviour: Behaviour) -> Row:
    writer = Writer(dialect)
    if lacks := behaviour.lacks(writer):
        pytest.skip(lacks)
    return behaviour.row(writer)


def literals(dialect: Dialect) -> frozenset[str]:
    return frozenset(literal for tag in dialect.tags for literal in LITERAL.findall(tag))


def test_there_are_forty_behaviours():
    assert len(TABLE) >= 40
    without = [one.name for one in TABLE.values() if not one.needs]
    assert len(without) >= 10, "for every family, whatever it is"


@pytest.mark.parametrize("dialect", families(), ids=name_of)
def test_what_a_family_can_not_have_has_a_reason(dialect):
    """No more is left out than what the family lacks."""
    lacking = Counter(one.lacks(Writer(dialect)) for one in TABLE.values())
    had = lacking.pop("")
    assert had >= 20
    assert had >= 40 or not dialect.think or dialect.answer_opens, lacking


# --- the splitter


def spelled(row: Row, exact: frozenset[str]) -> tuple[str, set[int]]:
    """A row's text and where control tokens stand in it."""
    marks, at = set[int](), 0
    for part in row.said:
        if not isinstance(part, Letters):
            marks |= {at + match.start() for one in exact for match in re.finditer(re.escape(one), part)}
        at += len(part)
    return row.text, marks


def portions(text: str) -> Iterable[Iterable[int]]:
    yield ()
    yield from (range(0, len(text), size) for size in (1, 2, 3, 5, 7, 11))
    yield from ((len(text) // 2,), (len(text) - 1,), (1,), (3, 4, 5, len(text) // 3))


def read(dialect: Dialect, row: Row, exact: frozenset[str], cuts: Iterable[int]) -> tuple[list[Piece], Splitter]:
    text, marks = spelled(row, exact)
    splitter, pieces = splitter_of(dialect, row, exact), list[Piece]()
    for start, stop in pairwise(sorted({0, len(text), *(cut for cut in cuts if 0 < cut < len(text))})):
        for mark in sorted(marks):
            if start <= mark < stop:
                splitter.mark(mark)
        pieces += splitter.push(text[start:stop])
    return [*pieces, *splitter.finish()], splitter


def splitter_of(dialect: Dialect, row: Row, exact: frozenset[str]) -> Splitter:
    return Splitter(
        dialect,
        {name: callee._replace(bound=row.choice == "required") for name, callee in CALLEES.items()}
        if row.may_call
        else {},
        Rules(
            opened=row.begins == "opened" or is_open(dialect, row.continues),
            separate=row.separate,
            whole_thoughts=row.at_once,
            guaranteed=row.choice == "required" or row.bound,
            only_calls=row.choice == "required",
            one_call=not row.parallel,
        ),
        exact=exact,
    )


def is_open(dialect: Dialect, text: str) -> bool:
    return dialect.think is not None and text.rfind(dialect.think.open) > text.rfind(dialect.think.close)


def has_letters(row: Row) -> bool:
    return any(isinstance(part, Letters) for part in row.said)


@every_pair
@pytest.mark.parametrize("tokens", [False, True], ids=["letters", "tokens"])
def test_in_any_portions(dialect, behaviour, tokens):
    row = row_of(dialect, behaviour)
    exact = literals(dialect) if tokens else frozenset[str]()
    if row.stop:
        pytest.skip("the splitter knows nothing of stop strings")
    if has_letters(row) and not tokens:
        pytest.skip("letters are tags where no control token is meant")
    whole, splitter = read(dialect, row, exact, ())
    held(row, heard(joined(whole)))
    assert row.order in ("", order(joined(whole)))
    for cuts in portions(row.text):
        pieces, other = read(dialect, row, exact, cuts)
        assert joined(pieces) == joined(whole), list(cuts)
        assert other.thought_spans() == splitter.thought_spans()
        assert not row.at_once or sum(isinstance(piece, Thought) for piece in pieces) <= 1


class Heard:
    """What came out, put together."""

    def __init__(self) -> None:
        self.thoughts = self.content = ""
        self.names: list[str] = []
        self.inputs: list[str] = []


def heard(pieces: Iterable[Piece]) -> Heard:
    made = Heard()
    for piece in pieces:
        match piece:
            case Said(text):
                made.content += text
            case Thought(text):
                made.thoughts += text
            case Called(index, name):
                assert index == len(made.names)
                made.names, made.inputs = [*made.names, name], [*made.inputs, ""]
            case Passed(index, text):
                made.inputs[index] += text
    return made


def order(pieces: Iterable[Piece]) -> str:
    kinds = {Said: "s", Thought: "t", Called: "c", Passed: ""}
    return "".join(kinds[type(piece)] for piece in pieces)


def held(row: Row, made: Heard) -> None:
    assert (made.thoughts, made.content) == (row.thoughts, row.content)
    assert made.names == [name for name, _ in row.calls]
    for at, (text, (_, given)) in enumerate(zip(made.inputs, row.calls, strict=True)):
        if row.cut and at == len(row.calls) - 1:
            assert json.dumps(given).startswith(text)
        elif isinstance(given, str):
            assert text == given
        else:
            assert json.loads(text) == given and (given or text == "{}")


# --- a session


class FamilyText(ByteText):
    """Bytes, and control tokens for what looks like one in the family's tags, if there are to be any. The end of a
    prompt is one token, whatever its length."""

    def __init__(self, dialect: Dialect, begun: str, *, tokens: bool) -> None:
        super().__init__(dialect, begun, sorted(literals(dialect)) if tokens else ())
        self.ending = max(self.control.values()) + 1

    def ids(self, parts: Iterable[str]) -> list[int]:
        return [id for part in parts for id in (part.encode() if isinstance(part, Letters) else self.spelled(part))]

    def encode_chat(self, chat: ChatPrompt) -> list[int]:
        said = [token for message in chat.messages for token in (USER, *self.spelled(str(message["content"])))]
        return said + [REPLY, self.ending] * chat.add_generation_prompt

    def token_bytes(self, token: int) -> bytes:
        return self.begun.encode() if token == self.ending else super().token_bytes(token)


def begun(dialect: Dialect, row: Row) -> str:
    """What the prompt ends with. Where a family assumes thoughts, only a prompt that closes them says that there are none."""
    writer = Writer(dialect)
    if not writer.think:
        return ""
    closed = row.begins == "closed" or (writer.think.assumed and not row.begins)
    return writer.open if row.begins == "opened" else writer.open + writer.close if closed else ""


def world(dialect: Dialect, row: Row, *, tokens: bool, cuts: tuple[int, ...]) -> tuple[Session, FamilyText]:
    text = FamilyText(dialect, begun(dialect, row), tokens=tokens)
    script = [*text.ids(row.said), *([EOS] if row.end == "eos" else [])]
    spec = replace(SPEC, vocab_size=text.ending + 1, context=8192)
    return Session(text, EchoClient(lambda request, choice: script, cuts=cuts, spec=spec), ("echo",)), text


def asked(row: Row) -> Ask:
    messages = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": row.continues})
    chat = ChatPrompt(
        messages=messages if row.continues else messages[:1],
        add_generation_prompt=not row.continues,
        continue_final_message=bool(row.continues),
    )
    given = (*TOOLS, BOUND) if row.bound else TOOLS
    tools = ToolRule(tools=given, choice=row.choice, parallel=row.parallel) if row.tools else None
    return Ask(
        id="q",
        model="echo",
        prompts=(chat,),
        seed=1,
        tools=tools,
        stop=row.stop,
        separate_reasoning=row.separate,
        stream_reasoning=not row.at_once,
    )


def folded(events: Iterable[Event]) -> tuple[Any, ...]:
    """What a client makes of a stream."""
    thoughts, content, end = "", "", None
    calls: list[list[str]] = []
    for event in events:
        assert end is None, "nothing comes behind the end"
        match event:
            case Content(_, text):
                content += text
            case Reasoning(_, text):
                thoughts += text
            case Call(_, index, id, name):
                assert index == len(calls)
                calls.append([id, name, ""])
            case Arguments(_, index, text):
                calls[index][2] += text
            case End():
                end = event
    assert end is not None
    return thoughts, content, [tuple(call) for call in calls], end.reason


@every_pair
@pytest.mark.parametrize("tokens", [False, True], ids=["letters", "tokens"])
def test_through_a_session(dialect, behaviour, tokens):
    row = row_of(dialect, behaviour)
    if has_letters(row) and not tokens:
        pytest.skip("letters are tags where no control token is meant")
    if tokens and not row.may_call:
        pytest.skip("control tokens that are no tags now are left out of the text")
    whole, usage = asyncio.run(whole_of(*world(dialect, row, tokens=tokens, cuts=(1000,))[:1], row))
    thoughts, content, calls, reason = whole
    made = Heard()
    made.thoughts, made.content = thoughts, content
    made.names, made.inputs = [name for _, name, _ in calls], [text for *_, text in calls]
    held(row, made)
    assert reason == (row.reason or ("length" if row.end == "length" else "tool_calls" if row.calls else "stop"))
    rightly_named(dialect, row, calls)
    for cuts in ((1,), (3,), (2, 5, 1)):
        session, text = world(dialect, row, tokens=tokens, cuts=cuts)
        events, other = asyncio.run(events_of(session, row))
        assert folded(events) == whole and other == usage
        assert not row.at_once or sum(isinstance(event, Reasoning) and bool(event.text) for event in events) <= 1
    if row.counted is not None:
        assert usage.reasoning == len(text.spelled(row.counted))


async def whole_of(session: Session, row: Row) -> tuple[Any, Any]:
    generation = await session.start(asked(row))
    (one,) = await gather(generation)
    generation.close()
    calls = [(call.id, call.name, call.arguments) for call in one.calls]
    return (one.reasoning or "", one.text, calls, one.end.reason), generation.usage()


async def events_of(session: Session, row: Row) -> tuple[list[Event], Any]:
    generation = await session.start(asked(row))
    events = [event async for group in generation for event in group]
    generation.close()
    return events, generation.usage()


def rightly_named(dialect: Dialect, row: Row, calls: list[tuple[str, str, str]]) -> None:
    pattern = {"ours": "call_[0-9a-f]{24}", "nine": "[a-zA-Z0-9]{9}", "indexed": r"functions\.\w+:\d+"}
    ids = [id for id, *_ in calls]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(pattern[dialect.call_ids], id) for id in ids), ids
    if dialect.call_ids == "indexed" and row.text.count(dialect.calls.section.open) == 1:
        assert ids == [f"functions.{name}:{at}" for at, (_, name, _) in enumerate(calls)]


# --- HTTP, and OpenAI's own client

SHOWN = (
    "thoughts, then content",
    "thoughts, then calls",
    "thoughts that the prompt opened, without an end: cut off by length",
    "a call within open thoughts ends them",
    "several calls",
    "content before, between and behind calls",
    "a call of an unknown tool is content",
    "a call that length cuts off is content",
    "a call that must come",
)
FUNCTIONS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "parameters": NOTHING}},
]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Front, OpenAI]]:
    app, front = make_front()
    with serving(app) as live, OpenAI(base_url=f"{live.url}/v1", api_key="any", max_retries=0) as client:
        yield front, client


@pytest.mark.parametrize("dialect", families(), ids=name_of)
def test_with_openais_client(served, dialect):
    front, client = served
    for row in [one.row(Writer(dialect)) for name in SHOWN if not (one := TABLE[name]).lacks(Writer(dialect))]:
        front.session, _ = world(dialect, row, tokens=True, cuts=(2,))
        front.client = front.session.client
        asking: dict[str, Any] = {
            "model": "echo",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": FUNCTIONS,
            "tool_choice": row.choice,
            "seed": 1,
        }
        answer = client.chat.completions.create(**asking)
        whole = answered(answer)
        assert whole[:2] == (row.thoughts or None, row.content or None)
        assert [(name, json.loads(given)) for _, name, given in whole[2]] == list(row.calls)
        assert whole[3] == (row.reason or ("length" if row.end == "length" else "tool_calls" if row.calls else "stop"))
        streamed, usage = gathered(
            client.chat.completions.create(**asking, stream=True, stream_options={"include_usage": True})
        )
        assert [streamed[0], streamed[1], *streamed[3:]] == [whole[0], whole[1], *whole[3:]]
        assert [call[1:] for call in streamed[2]] == [call[1:] for call in whole[2]]
        assert usage == answer.usage


def answered(answer: ChatCompletion) -> tuple[Any, ...]:
    (choice,) = answer.choices
    message = choice.message
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    assert message.tool_calls is None or calls
    extra = message.model_extra or {}
    thoughts = extra.get("reasoning_content")
    assert extra.get("reasoning") == thoughts
    return thoughts, message.content, calls, choice.finish_reason


def gathered(stream: Iterable[ChatCompletionChunk]) -> tuple[tuple[Any, ...], Any]:
    thoughts, content, calls, reason, usage = "", "", list[list[str]](), None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            delta, reason = choice.delta, choice.finish_reason or reason
            thoughts += (delta.model_extra or {}).get("reasoning_content") or ""
            content += delta.content or ""
            for call in delta.tool_calls or ():
                if call.index == len(calls):
                    assert call.id and call.function.name and call.function.arguments == ""
                    calls.append([call.id, call.function.name, ""])
                calls[call.index][2] += call.function.arguments or ""
    return (thoughts or None, content or None, [tuple(call) for call in calls], reason), usage
