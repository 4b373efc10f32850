"""Conversations in the shapes that templates take: thoughts apart from contents, ids of calls, turns that alternate.

Pure functions on messages. Some hold for a family; the others are tried where a template refuses a conversation as it is:

    nine_ids      ids of nine letters and digits                        Mistral
    one_call      one call in a message, its result behind it           Llama 3
    joined        messages of one role that follow each other, in one   Gemma, Mistral
    folded        what the system says, in the user's next message      Gemma
    spaced        empty messages where it is another's turn             Mistral
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any

from radixmill.front.dialects.dialect import Dialect
from radixmill.front.dialects.messages import SYSTEM, THOUGHTS, Message, results_by_call, text_of
from radixmill.front.dialects.pieces import Said, Thought
from radixmill.front.dialects.splitter import Rules, Splitter

Step = Callable[[Sequence[Message]], list[Message]]


# Thoughts.


def thoughts_apart(dialect: Dialect, message: Message, *, opened: bool = False) -> Message:
    """An earlier answer whose thoughts stand in its content, as answers come that were not split: the two apart.

    Only what the content begins with counts. `opened`: prompts open thoughts, so that answers do not. A content that has
    the closing tag somewhere else keeps it: empty thoughts keep templates from looking for some there.
    """
    think, content = dialect.think, message.get("content")
    if think is None or message["role"] != "assistant" or any(message.get(name) for name in THOUGHTS):
        return message
    text = _first_text(content)
    begins = text.lstrip().startswith(think.open.rstrip())
    closes = think.close in text
    if not begins and not (opened and closes and think.open.rstrip() not in text.partition(think.close)[0]):
        return {**message, "reasoning_content": ""} if closes else message
    thoughts, rest = _split(dialect, text, opened=not begins)
    return {**message, "reasoning_content": thoughts, "content": _with_first_text(content, rest)}


def _split(dialect: Dialect, text: str, *, opened: bool) -> tuple[str, str]:
    splitter = Splitter(dialect, rules=Rules(opened=opened))
    pieces = [*splitter.push(text), *splitter.finish()]
    thoughts = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    # Line ends around them are the templates' to write.
    return (thoughts.strip("\n"), said.lstrip("\n")) if said.strip() else (thoughts.lstrip("\n"), "")


def _first_text(content: Any) -> str:
    if isinstance(content, list):
        return str(content[0].get("text") or "") if content else ""
    return content or ""


def _with_first_text(content: Any, text: str) -> Any:
    if not isinstance(content, list):
        return text
    rest = content[1:]
    return [{**content[0], "text": text}, *rest] if text or not rest else rest


# Ids of calls.


def nine_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of nine letters and digits for all calls and their results; those that are so stay."""
    taken = {id for id in _ids(messages) if _is_nine(id)}
    new: dict[str, str] = {}
    for id in _ids(messages):
        if not _is_nine(id) and id not in new:
            new[id] = _nine(id, taken)
            taken.add(new[id])
    return _renamed(messages, new)


def indexed_ids(messages: Sequence[Message]) -> list[Message]:
    """`functions.NAME:INDEX`, counted through the conversation, for all calls and their results."""
    told = _with_all_ids(messages)
    calls = [call for message in told for call in message.get("tool_calls") or ()]
    new = {call["id"]: f"functions.{call['function']['name']}:{i}" for i, call in enumerate(calls)}
    return _renamed(told, new)


def _renamed(messages: Sequence[Message], new: Mapping[str, str]) -> list[Message]:
    out = []
    for message in _with_all_ids(messages, new):
        if message.get("tool_calls"):
            calls = [{**call, "id": new.get(call["id"], call["id"])} for call in message["tool_calls"]]
            message = {**message, "tool_calls": calls}
        if id := message.get("tool_call_id"):
            message = {**message, "tool_call_id": new.get(id, id)}
        out.append(message)
    return out


def _with_all_ids(messages: Sequence[Message], new: Mapping[str, str] | None = None) -> list[Message]:
    """Calls without an id get one, results without one that of the call whose turn it is."""
    out: list[Message] = []
    open_calls: list[str] = []
    for i, message in enumerate(messages):
        if message.get("tool_calls"):
            calls = [{**call, "id": call.get("id") or _missing(i, k)} for k, call in enumerate(message["tool_calls"])]
            message, open_calls = {**message, "tool_calls": calls}, [call["id"] for call in calls]
        elif message["role"] == "tool":
            id = message.get("tool_call_id") or (open_calls[0] if open_calls else _missing(i, 0))
            message, open_calls = {**message, "tool_call_id": id}, [one for one in open_calls if one != id]
        out.append(message)
    return out


def _ids(messages: Sequence[Message]) -> list[str]:
    told = _with_all_ids(messages)
    calls = [call["id"] for message in told for call in message.get("tool_calls") or ()]
    return [*calls, *(message["tool_call_id"] for message in told if message["role"] == "tool")]


def _missing(message: int, call: int) -> str:
    return _digest(f"{message}/{call}", 0)


def _is_nine(id: str) -> bool:
    return len(id) == 9 and id.isascii() and id.isalnum()


def _nine(id: str, taken: set[str]) -> str:
    return next(made for i in range(len(taken) + 1) if (made := _digest(id, i)) not in taken)


def _digest(id: str, attempt: int) -> str:
    return hashlib.sha256(f"{attempt}/{id}".encode()).hexdigest()[:9]


# Turns.


def one_call(messages: Sequence[Message]) -> list[Message]:
    """Messages of several calls in several of one, each with its results behind it."""
    out: list[Message] = []
    told = list(messages)
    while told:
        message = told.pop(0)
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            out.append(message)
            continue
        size = next((i for i, later in enumerate(told) if later["role"] != "tool"), len(told))
        results, told = told[:size], told[size:]
        for i, (call, own) in enumerate(zip(calls, results_by_call(calls, results), strict=True)):
            shown = message if i == 0 else {"role": "assistant", "content": None}
            out += [{**shown, "tool_calls": [call]}, *own]
    return out


def in_order(messages: Sequence[Message]) -> list[Message]:
    """Results in the order of their calls: most templates tell whose they are by that alone."""
    out: list[Message] = []
    ids: list[Any] = []
    for is_result, run in groupby(messages, key=lambda message: message["role"] == "tool"):
        told = list(run)
        if is_result and all(message.get("tool_call_id") in ids for message in told):
            told.sort(key=lambda message: ids.index(message["tool_call_id"]))
        out += told
        ids = [call["id"] for call in told[-1].get("tool_calls") or () if call.get("id")]
    return out


def calls_apart(messages: Sequence[Message]) -> list[Message]:
    """Content and calls of one message in two, for templates that write the calls only where there is no content."""
    out: list[Message] = []
    for message in messages:
        if message.get("tool_calls") and message.get("content"):
            out.append({name: value for name, value in message.items() if name != "tool_calls"})
            message = {"role": message["role"], "content": None, "tool_calls": message["tool_calls"]}
        out.append(message)
    return out


def led(messages: Sequence[Message]) -> list[Message]:
    """All that the system says in one message, the first."""
    said = [message for message in messages if message["role"] in SYSTEM]
    if len(said) < 2:
        return list(messages)
    content: Any = None
    for message in said:
        content = _both(content, message.get("content"))
    return [{**said[0], "content": content}, *(message for message in messages if message["role"] not in SYSTEM)]


def spaced(messages: Sequence[Message]) -> list[Message]:
    """Empty messages: of the user before an answer that nothing was asked for, of the assistant between results of tools
    and what the user says next."""
    out: list[Message] = []
    before = ""
    for message in messages:
        role = message["role"]
        if role == "assistant" and before in ("", *SYSTEM):
            out.append({"role": "user", "content": ""})
        if role == "user" and before == "tool":
            out.append({"role": "assistant", "content": ""})
        out.append(message)
        before = role
    return out


def joined(messages: Sequence[Message]) -> list[Message]:
    """Messages of one role that follow each other as one; results of tools stay apart."""
    out: list[Message] = []
    for message in messages:
        if out and out[-1]["role"] == message["role"] != "tool" and not out[-1].get("tool_calls"):
            out[-1] = _one(out[-1], message)
        else:
            out.append(message)
    return out


def _one(first: Message, second: Message) -> Message:
    kept = {name: _both(first.get(name), second.get(name)) for name in ("content", *THOUGHTS)}
    return {**first, **second, **{name: value for name, value in kept.items() if name == "content" or value}}


def folded(messages: Sequence[Message]) -> list[Message]:
    """What the system says, before what the user says next; behind all that is said, as a message of the user."""
    out: list[Message] = []
    said: Any = None
    for message in messages:
        if message["role"] in SYSTEM:
            said = _both(said, message.get("content"))
        elif said and message["role"] == "user":
            out.append({**message, "content": _both(said, message.get("content"))})
            said = None
        else:
            out.append(message)
    return [*out, {"role": "user", "content": said}] if said else out


def _both(first: Any, second: Any) -> Any:
    if not first or not second:
        return first or second
    if isinstance(first, list) or isinstance(second, list):
        return [*_as_parts(first), *_as_parts(second)]
    return f"{first}\n\n{second}"


def _as_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": text_of(content)}]


STEPS: tuple[Step, ...] = (nine_ids, one_call, spaced, joined, folded)


def ways(told: Callable[[], Sequence[Message]]) -> Iterator[Step]:
    """Ways to tell a conversation, the least changed first; each does something that those before it don't.

    `told`: the conversation as it was told the first time; asked only where that was not enough.
    """
    yield list
    messages = list(told())
    useful = [step for step in STEPS if step(messages) != messages]
    if folded in useful and joined not in useful:
        useful.insert(useful.index(folded), joined)  # folding may leave messages of one role side by side
    for size in range(1, len(useful) + 1):
        for steps in combinations(useful, size):
            yield _all_of(steps)


def _all_of(steps: Sequence[Step]) -> Step:
    def change(messages: Sequence[Message]) -> list[Message]:
        # Systems first: the others see what is left.
        for step in reversed(steps):
            messages = step(messages)
        return list(messages)

    return change
