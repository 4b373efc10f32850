"""Earlier messages in the shapes that a family's templates take, where these can't print all that APIs can say.

Templates of one call a message (`Dialect.one_call`), gpt-oss's, print thoughts or content beside it, know whose a result
is by the call before it, and have no place for system messages but the first.

    thoughts, content, calls f and g    →    thoughts and content as thoughts, call f
    result of f                              result of f
    result of g                              call g
                                             result of g
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from radixmill.front.dialects.dialect import Dialect
from radixmill.front.dialects.messages import SYSTEM, THOUGHTS, Message, results_by_call, text_of


def fitted(dialect: Dialect, messages: Sequence[Message]) -> list[Message]:
    """The conversation as the family's templates take it. Raises ValueError for what they would leave out."""
    return list(_one_call_each(_led(messages))) if dialect.one_call else list(messages)


def _led(messages: Sequence[Message]) -> list[Message]:
    """One system message at most: all that stand first, in one."""
    size = next((i for i, message in enumerate(messages) if message["role"] not in SYSTEM), len(messages))
    if any(message["role"] in SYSTEM for message in messages[size:]):
        raise ValueError(
            "system messages must stand before all others: this model's chat template takes them only there"
        )
    if size < 2:
        return list(messages)
    said = "\n\n".join(text_of(message.get("content")) for message in messages[:size])
    return [{**messages[0], "content": said}, *messages[size:]]


def _one_call_each(messages: Iterable[Message]) -> Iterator[Message]:
    calls: list[Message] = []  # of the model's turn before, one in each
    rest: list[Message] = []
    for role, run in [(role, list(run)) for role, run in groupby(messages, key=lambda message: message["role"])]:
        if role == "tool" and calls:
            yield from (*_answered(calls, run), *rest)
            calls, rest = [], []
        else:
            yield from (*calls, *rest)
            calls, rest = _turn(run) if role == "assistant" else ([], run)
    yield from (*calls, *rest)


def _turn(messages: Iterable[Message]) -> tuple[list[Message], list[Message]]:
    """The calls of one turn of the model, all that it thought and said before each with it; and what is behind them."""
    calls: list[Message] = []
    before: list[Message] = []
    for message in messages:
        before.append(message)
        if not message.get("tool_calls"):
            continue
        thoughts = "\n\n".join(text for one in before for text in _texts(one))
        made: list[Message] = [
            {"role": "assistant", "content": "", "tool_calls": [call]} for call in message["tool_calls"]
        ]
        made[0] |= {"reasoning_content": thoughts} if thoughts else {}
        calls, before = [*calls, *made], []
    return calls, before


def _answered(calls: Sequence[Message], results: Sequence[Message]) -> Iterator[Message]:
    """Each call and its results."""
    for call, own in zip(calls, results_by_call([call["tool_calls"][0] for call in calls], results), strict=True):
        yield from (call, *own)


def _texts(message: Message) -> Iterator[str]:
    """What was thought, then what was said."""
    thoughts = next((message[name] for name in THOUGHTS if message.get(name)), "")
    yield from filter(None, (thoughts, text_of(message.get("content"))))
