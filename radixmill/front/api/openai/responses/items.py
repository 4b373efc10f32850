"""The items of a conversation, as they come in, are kept, and go out; one struct for each kind of text item.

Items go to and fro: what the server said is sent back as history. So the structs of both directions are the same, and a
kept item has what a client may leave out: its id, its status, the type of each part.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec import inspect as t

from radixmill.core.errors import BadRequest
from radixmill.front.api.explain import fault_of
from radixmill.front.api.partial import told_again
from radixmill.front.session.limits import SIZES

Status = Literal["in_progress", "completed", "incomplete"]
S = TypeVar("S", bound=Struct)


class ItemPart(Struct, kw_only=True):
    """A part of a message, an output or a thought. Only text is served; others are known by name, to refuse them by name."""

    type: str
    text: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    annotations: list[Any] | UnsetType | None = UNSET
    logprobs: list[Any] | UnsetType | None = UNSET
    prompt_cache_breakpoint: Any | UnsetType = UNSET  # a hint


class MessageItem(Struct, kw_only=True, tag_field="type", tag="message"):
    """Something said: by the user or a system (input_text), or by the model (output_text, refusal)."""

    id: str | None = None
    status: Status | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ItemPart]
    phase: Literal["commentary", "final_answer"] | UnsetType | None = UNSET  # a hint


class ThoughtItem(Struct, kw_only=True, tag_field="type", tag="reasoning"):
    """The model's reasoning, in the open: `content` has it, a summary is never made."""

    id: str | None = None
    status: Status | None = None
    summary: list[ItemPart]
    content: list[ItemPart] | None = None
    encrypted_content: str | UnsetType | None = UNSET


class FunctionCallItem(Struct, kw_only=True, tag_field="type", tag="function_call"):
    id: str | None = None
    status: Status | None = None
    call_id: str
    name: str
    arguments: str
    namespace: Any | UnsetType = UNSET
    caller: Any | UnsetType = UNSET


class CustomCallItem(Struct, kw_only=True, tag_field="type", tag="custom_tool_call"):
    id: str | None = None
    status: Status | None = None
    call_id: str
    name: str
    input: str
    namespace: Any | UnsetType = UNSET
    caller: Any | UnsetType = UNSET


class FunctionOutputItem(Struct, kw_only=True, tag_field="type", tag="function_call_output"):
    id: str | None = None
    status: Status | None = None
    call_id: str
    output: str | list[ItemPart]
    name: Any | UnsetType = UNSET
    namespace: Any | UnsetType = UNSET
    caller: Any | UnsetType = UNSET


class CustomOutputItem(Struct, kw_only=True, tag_field="type", tag="custom_tool_call_output"):
    id: str | None = None
    status: Status | None = None
    call_id: str
    output: str | list[ItemPart]
    caller: Any | UnsetType = UNSET


class Reference(Struct, kw_only=True):
    """An item that the server has kept."""

    id: str


Item = MessageItem | ThoughtItem | FunctionCallItem | CustomCallItem | FunctionOutputItem | CustomOutputItem
Find = Callable[[str], Item | None]

KINDS: dict[str, type[Item] | type[Reference]] = {
    "message": MessageItem,
    "reasoning": ThoughtItem,
    "function_call": FunctionCallItem,
    "custom_tool_call": CustomCallItem,
    "function_call_output": FunctionOutputItem,
    "custom_tool_call_output": CustomOutputItem,
    "item_reference": Reference,
}
ID_PREFIXES: dict[type[Item], str] = {
    MessageItem: "msg_",
    ThoughtItem: "rs_",
    FunctionCallItem: "fc_",
    CustomCallItem: "ctc_",
    FunctionOutputItem: "fco_",
    CustomOutputItem: "ctco_",
}


def new_id(kind: type[Item]) -> str:
    return ID_PREFIXES[kind] + uuid.uuid4().hex


class Reading:
    """Values inside a body → structs, with what nobody knows noted, or refused if `strict`."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.ignored: list[str] = []

    def typed(self, value: Any, kind: type[S], path: str) -> S:
        """Raises BadRequest naming the place below `path`."""
        try:
            read = msgspec.convert(value, kind)
        except (msgspec.ValidationError, RecursionError) as error:
            fault = fault_of(value, t.type_info(kind), path, error)
            assert fault is not None, "explain and msgspec must agree"
            raise BadRequest(f"{fault.path} {fault.message}.", param=fault.path) from None
        for unknown in _unknown(value, read, path):
            self.ignore(unknown)
        return read

    def ignore(self, path: str) -> None:
        if self.strict:
            raise BadRequest(f"Unknown field: {path[:80]}.", param=path[:80])
        self.ignored.append(path)


def _unknown(value: Any, read: Any, path: str) -> Iterator[str]:
    """Places in a JSON value that the struct read from it has no field for."""
    if isinstance(read, Struct):
        for key, inner in value.items():
            if key in read.__struct_fields__:
                yield from _unknown(inner, getattr(read, key), f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(read, list) and read and isinstance(read[0], Struct):
        for i, inner in enumerate(value):
            yield from _unknown(inner, read[i], f"{path}[{i}]")


def read_items(given: str | Sequence[Any], earlier: Sequence[Item], find: Find, reading: Reading) -> tuple[Item, ...]:
    """What the client sent, behind `earlier` items, ready to be kept. Raises BadRequest naming the place."""
    if isinstance(given, str):
        return (_normal_message(MessageItem(role="user", content=given), "input"),)
    items = tuple(_item(value, f"input[{i}]", find, reading) for i, value in enumerate(given))
    _check_calls(earlier, items)
    return items


def _item(value: Any, path: str, find: Find, reading: Reading) -> Item:
    kind = _kind(value, path)
    item: Item | Reference = reading.typed({key: inner for key, inner in value.items() if key != "type"}, kind, path)
    match item:
        case Reference(id=id):
            found = find(id)
            if found is None:
                raise BadRequest(f"{path}.id: there is no item {id[:80]!r} here.", param=f"{path}.id", code="not_found")
            return found
        case MessageItem():
            return _normal_message(item, path)
        case ThoughtItem():
            return _normal_thought(item, path, reading)
        case FunctionCallItem() | CustomCallItem():
            _check_plain(item, path)
            return _kept(item)
        case FunctionOutputItem() | CustomOutputItem():
            _check_plain(item, path)
            output = item.output
            if not isinstance(output, str):
                output = [_input_part(part, f"{path}.output[{i}]") for i, part in enumerate(output)]
            return msgspec.structs.replace(_kept(item), output=output)


def _kind(value: Any, path: str) -> type[Item] | type[Reference]:
    if not isinstance(value, dict):
        raise BadRequest(f"{path} must be an object: an input item.", param=path)
    name = value.get("type")
    if name is None:
        name = "item_reference" if "id" in value and "role" not in value else "message"
    if not isinstance(name, str) or name not in KINDS:
        raise BadRequest(
            f"{path}.type {str(name)[:40]!r} is not supported: this server takes {', '.join(KINDS)}.",
            param=f"{path}.type",
        )
    return KINDS[name]


def _kept(item: Any) -> Any:
    """With the id and status that a client may leave out."""
    return msgspec.structs.replace(item, id=item.id or new_id(type(item)), status=item.status or "completed")


def _normal_message(message: MessageItem, path: str) -> MessageItem:
    content, said_by_model = message.content, message.role == "assistant"
    if isinstance(content, str):
        parts = [_text(content, said_by_model)]
    elif not content:
        raise BadRequest(f"{path}.content must not be an empty list.", param=f"{path}.content")
    else:
        read = _output_part if said_by_model else _input_part
        parts = [read(part, f"{path}.content[{i}]") for i, part in enumerate(content)]
    return msgspec.structs.replace(_kept(message), content=parts)


def _normal_thought(thought: ThoughtItem, path: str, reading: Reading) -> ThoughtItem:
    content = [
        ItemPart(type="reasoning_text", text=_said(part, "reasoning_text", f"{path}.content[{i}]"))
        for i, part in enumerate(thought.content or ())
    ]
    summary = [
        ItemPart(type="summary_text", text=_said(part, "summary_text", f"{path}.summary[{i}]"))
        for i, part in enumerate(thought.summary)
    ]
    if thought.encrypted_content:  # not ours: thoughts are in the open here
        reading.ignored.append(f"{path}.encrypted_content")
    kept: ThoughtItem = _kept(thought)
    return msgspec.structs.replace(kept, content=content, summary=summary, encrypted_content=UNSET)


def _text(text: str, said_by_model: bool) -> ItemPart:
    if said_by_model:
        return ItemPart(type="output_text", text=text, annotations=[], logprobs=[])
    return ItemPart(type="input_text", text=text)


def _input_part(part: ItemPart, path: str) -> ItemPart:
    if part.type not in ("input_text", "output_text"):
        raise _not_text(part.type, path)
    return _text(_said(part, part.type, path), said_by_model=False)


def _output_part(part: ItemPart, path: str) -> ItemPart:
    if part.type == "refusal":
        if not isinstance(part.refusal, str):
            raise BadRequest(f"{path}.refusal is required: it must be a string.", param=f"{path}.refusal")
        return ItemPart(type="refusal", refusal=part.refusal)
    if part.type not in ("input_text", "output_text"):
        raise _not_text(part.type, path)
    text = _said(part, part.type, path)
    return ItemPart(type="output_text", text=text, annotations=[], logprobs=[])  # what was sent of these is not ours


def _said(part: ItemPart, kind: str, path: str) -> str:
    if part.type != kind:
        raise BadRequest(f'{path}.type must be "{kind}", not {part.type[:40]!r}.', param=f"{path}.type")
    if not isinstance(part.text, str):
        raise BadRequest(f"{path}.text is required: it must be a string.", param=f"{path}.text")
    return part.text


def _not_text(kind: str, path: str) -> BadRequest:
    return BadRequest(
        f"{path}.type {kind[:40]!r} is not supported: this model takes text parts only.", param=f"{path}.type"
    )


def _check_plain(item: FunctionCallItem | CustomCallItem | FunctionOutputItem | CustomOutputItem, path: str) -> None:
    """Namespaces and programs that call tools belong to hosted tools."""
    if getattr(item, "namespace", UNSET) not in (None, UNSET):
        raise BadRequest(f"{path}.namespace is not supported.", param=f"{path}.namespace")
    if item.caller not in (None, UNSET, {"type": "direct"}):
        raise BadRequest(f"{path}.caller is not supported, unless it is direct.", param=f"{path}.caller")


def _check_calls(earlier: Sequence[Item], items: Sequence[Item]) -> None:
    """An output needs its call before it."""
    known = {item.call_id for item in earlier if isinstance(item, FunctionCallItem | CustomCallItem)}
    for i, item in enumerate(items):
        match item:
            case FunctionCallItem(call_id=id) | CustomCallItem(call_id=id):
                known.add(id)
            case FunctionOutputItem(call_id=id) | CustomOutputItem(call_id=id) if id not in known:
                path = f"input[{i}].call_id"
                raise BadRequest(f"{path}: no tool call with the id {id[:80]!r} comes before this output.", param=path)


def to_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Messages for the chat template: thoughts, words and calls of one turn of the model become one message."""
    messages: list[dict[str, Any]] = []
    names = {item.call_id: item.name for item in items if isinstance(item, FunctionCallItem | CustomCallItem)}
    turn: dict[str, Any] | None = None  # the model's, still open
    for item in items:
        match item:
            case MessageItem(role=role) if role != "assistant":
                turn = None
                messages.append({"role": role, "content": _words(item.content)})
            case FunctionOutputItem(call_id=id) | CustomOutputItem(call_id=id):
                turn = None
                message = {"role": "tool", "tool_call_id": id, "content": _words(item.output)}
                messages.append(message | ({"name": names[id]} if id in names else {}))
            case _:
                if turn is None or _begins_anew(turn, item):
                    turn = {"role": "assistant", "content": None}
                    messages.append(turn)
                _say(turn, item)
    return [message for message in messages if _says_something(message)]


def _begins_anew(turn: Mapping[str, Any], item: Item) -> bool:
    match item:
        case ThoughtItem():
            return turn["content"] is not None or "tool_calls" in turn
        case MessageItem():
            return turn["content"] is not None or "tool_calls" in turn
        case _:
            return False


def _say(turn: dict[str, Any], item: Item) -> None:
    match item:
        case ThoughtItem(content=content):
            text = turn.get("reasoning_content", "") + "".join(_texts(content or ()))
            turn.update({"reasoning_content": text} if text else {})
        case MessageItem(content=content):
            turn["content"] = _words(content)
        case FunctionCallItem():
            turn.setdefault("tool_calls", []).append(_call(item.call_id, item.name, told_again(item.arguments)))
        case CustomCallItem():
            arguments = msgspec.json.encode({"input": item.input}).decode()
            turn.setdefault("tool_calls", []).append(_call(item.call_id, item.name, arguments))


def _says_something(message: Mapping[str, Any]) -> bool:
    return message["content"] is not None or "tool_calls" in message or "reasoning_content" in message


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _words(content: str | Sequence[ItemPart]) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    texts = list(_texts(content))
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _texts(parts: Sequence[ItemPart]) -> Iterator[str]:
    for part in parts:
        text = part.refusal if part.type == "refusal" else part.text
        if isinstance(text, str):
            yield text


def check_number(items: Sequence[Item]) -> None:
    """Raise BadRequest for a conversation without an end, or without a beginning."""
    most = int(SIZES["messages"].high or 0)
    if not items:
        raise BadRequest("input is required: it must be a string or a list of input items.", param="input")
    if len(items) > most:
        raise BadRequest(f"input: the conversation has more than {most} items.", param="input")
