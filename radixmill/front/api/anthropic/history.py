"""Messages and their blocks → plain dicts for the chat template.

Each message is cut into what is said, thought, called and returned; from these the turns are built anew, so that
neighbours of one role become one turn, as Anthropic has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeVar

from radixmill.core.errors import BadRequest
from radixmill.front.api.anthropic.body import Block, TextBlock, Turn

T = TypeVar("T")


class Said(NamedTuple):
    role: str
    text: str


class Thought(NamedTuple):
    text: str


class Called(NamedTuple):
    id: str
    name: str
    input: dict[str, Any]


class Returned(NamedTuple):
    """What the tool `name` gave for the call `id`."""

    id: str
    name: str
    text: str


Item = Said | Thought | Called | Returned


class History(NamedTuple):
    messages: tuple[dict[str, Any], ...]
    goes_on: bool  # the last message is the assistant's, for the model to go on with


def to_history(system: str | list[TextBlock] | None, messages: Sequence[Turn]) -> History:
    """The conversation as templates read it. Raises BadRequest naming the place."""
    turns = _turns([*_system(system), *_items(messages)])
    if turns and turns[-1].role == "assistant" and turns[-1].empty:
        turns.pop()  # to go on with nothing is to begin
    goes_on = bool(turns) and turns[-1].role == "assistant"
    if goes_on and (turns[-1].calls or not any(turns[-1].texts)):
        where = f"messages[{len(messages) - 1}]"
        raise BadRequest(
            f"{where} is the assistant's and the last: it must have text to go on with, and no tool_use.", param=where
        )
    return History(tuple(turn.to_template() for turn in turns), goes_on)


@dataclass
class _Turn:
    role: str
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    answers: Returned | None = None  # of a tool's turn

    @property
    def empty(self) -> bool:
        return not (any(self.texts) or self.thoughts or self.calls)

    def add(self, item: Item) -> None:
        match item:
            case Said(text=text):
                self.texts.append(text)
            case Thought(text):
                self.thoughts.append(text)
            case Called():
                self.calls.append(item)
            case Returned(text=text):
                self.answers = item
                self.texts.append(text)

    def to_template(self) -> dict[str, Any]:
        made: dict[str, Any] = {"role": self.role, "content": self._content()}
        if self.thoughts:
            made["reasoning_content"] = "\n".join(self.thoughts)
        if self.calls:
            made["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.input}}
                for call in self.calls
            ]
        if self.answers:
            made |= {"tool_call_id": self.answers.id, "name": self.answers.name}
        return made

    def _content(self) -> str | list[dict[str, str]] | None:
        if len(self.texts) > 1:
            return [{"type": "text", "text": text} for text in self.texts]
        return self.texts[0] if self.texts else (None if self.calls else "")


def _turns(items: Sequence[Item]) -> list[_Turn]:
    turns: list[_Turn] = []
    for item in items:
        role = _role(item)
        if role == "tool" or not turns or turns[-1].role != role:
            turns.append(_Turn(role))
        turns[-1].add(item)
    return turns


def _role(item: Item) -> str:
    match item:
        case Said(role):
            return role
        case Returned():
            return "tool"
        case _:
            return "assistant"


def _system(system: str | list[TextBlock] | None) -> Iterator[Said]:
    if isinstance(system, str):
        if system:
            yield Said("system", system)
        return
    for i, block in enumerate(system or ()):
        yield Said("system", _text(block, f"system[{i}]"))


def _items(messages: Sequence[Turn]) -> Iterator[Item]:
    names: dict[str, str] = {}  # id of a call → the tool's name
    for i, message in enumerate(messages):
        path = f"messages[{i}].content"
        if isinstance(message.content, str):
            yield Said(message.role, message.content)
            continue
        if not message.content and message.role != "assistant":  # an answer cut at once has no blocks
            raise BadRequest(f"{path} must not be an empty list.", param=path)
        for j, block in enumerate(message.content):
            item = _item(message.role, block, names, f"{path}[{j}]")
            if isinstance(item, Called):
                names[item.id] = item.name
            yield item


def _item(role: str, block: Block, names: dict[str, str], path: str) -> Item:
    match role, block.type:
        case _, "text":
            return Said(role, _text(block, path))
        case "assistant", "thinking":
            return Thought(_given(block.thinking, f"{path}.thinking", "a string"))
        case "assistant", "tool_use":
            return _called(block, names, path)
        case "user", "tool_result":
            return _returned(block, names, path)
        case _, ("thinking" | "tool_use" | "tool_result"):
            whose = "user" if block.type == "tool_result" else "assistant"
            raise BadRequest(f"{path}.type {block.type!r} is only for messages of the {whose}.", param=f"{path}.type")
        case _:
            _refuse(block.type, path)


def _called(block: Block, names: dict[str, str], path: str) -> Called:
    id = _given(block.id, f"{path}.id", "a string")
    if id in names:
        raise BadRequest(f"{path}.id {id[:80]!r} is the id of an earlier tool_use.", param=f"{path}.id")
    input = _given(block.input, f"{path}.input", "an object")
    return Called(id, _given(block.name, f"{path}.name", "a string"), input)


def _returned(block: Block, names: dict[str, str], path: str) -> Returned:
    id = _given(block.tool_use_id, f"{path}.tool_use_id", "a string")
    if id not in names:
        raise BadRequest(
            f"{path}.tool_use_id {id[:80]!r} is not the id of an earlier tool_use.", param=f"{path}.tool_use_id"
        )
    text = _result(block.content, f"{path}.content")
    return Returned(id, names[id], f"Error: {text}" if block.is_error else text)


def _result(content: str | list[TextBlock] | None, path: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_text(block, f"{path}[{i}]") for i, block in enumerate(content or ()))


def _text(block: TextBlock, path: str) -> str:
    if block.type != "text":
        _refuse(block.type, path)
    return _given(block.text, f"{path}.text", "a string")


def _refuse(kind: str, path: str) -> NoReturn:
    raise BadRequest(f"{path}.type {kind[:40]!r} is not supported: this model takes text only.", param=f"{path}.type")


def _given(value: T | None, path: str, what: str) -> T:
    if value is None:
        raise BadRequest(f"{path} is required: it must be {what}.", param=path)
    return value
