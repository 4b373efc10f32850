"""Chat messages as clients send them → plain dicts for the chat template."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.front.api.partial import told_again
from radixmill.front.session.limits import size

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ThoughtPart(Struct, kw_only=True):
    """A part of thoughts."""

    text: str
    type: Literal["text"] = "text"


class Part(Struct, kw_only=True):
    """One part of a message's content. Only text is served, and thoughts of the assistant; the others are known by name,
    to refuse them by name."""

    type: str
    text: str | None = None
    refusal: str | None = None
    thinking: str | list[ThoughtPart] | None = None
    prompt_cache_breakpoint: Any = None  # a hint


class FunctionCall(Struct, kw_only=True):
    name: str
    arguments: str


class CustomCall(Struct, kw_only=True):
    name: str
    input: str


class ToolCall(Struct, kw_only=True):
    """A call the assistant made earlier."""

    id: str | None = None
    type: Literal["function", "custom"] = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None
    index: int | None = None


class Message(Struct, kw_only=True):
    role: Role
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: FunctionCall | None = None
    annotations: Any = None  # in answers that are sent back as history; says nothing to a model
    audio: Any = None


Messages = Annotated[list[Message], size("messages")]
_TEXT_PARTS = ("text", "input_text", "output_text")


def to_template(messages: list[Message]) -> tuple[dict[str, Any], ...]:
    """Dicts with the keys that templates read. Raises BadRequest naming the place."""
    return tuple(_message(message, f"messages[{i}]") for i, message in enumerate(messages))


def _message(message: Message, path: str) -> dict[str, Any]:
    if message.audio is not None:
        raise BadRequest(f"{path}.audio is not supported.", param=f"{path}.audio")
    calls = _calls(message, path)
    fields = {
        "name": message.name,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content or message.reasoning or _thoughts(message, path),
    }
    content = _content(message, path, required=not calls and fields["reasoning_content"] is None)
    return {
        "role": message.role,
        "content": content,
        **{key: value for key, value in fields.items() if value is not None},
    }


def _content(message: Message, path: str, *, required: bool) -> str | list[dict[str, str]] | None:
    content = message.content
    if isinstance(content, list):
        if not content:
            raise BadRequest(f"{path}.content must not be an empty list.", param=f"{path}.content")
        parts = [_part(part, message.role, f"{path}.content[{i}]") for i, part in enumerate(content)]
        return [part for part in parts if part] or None
    if content is None and message.role == "assistant" and message.refusal is not None:
        return message.refusal
    if content is None and (required or message.role != "assistant"):
        raise BadRequest(
            f"{path}.content is required: it must be a string or a list of text parts.", param=f"{path}.content"
        )
    return content


def _thoughts(message: Message, path: str) -> str | None:
    """What parts of type "thinking" say, as Mistral's API has them: text, or a list of texts."""
    parts = message.content if isinstance(message.content, list) and message.role == "assistant" else ()
    told = [
        _said(part.thinking, f"{path}.content[{i}].thinking")
        if not isinstance(part.thinking, list)
        else "".join(one.text for one in part.thinking)
        for i, part in enumerate(parts)
        if part.type == "thinking"
    ]
    return "\n\n".join(told) or None


def _part(part: Part, role: Role, path: str) -> dict[str, str]:
    """{}: it is no part of the content."""
    if part.type == "thinking" and role == "assistant":
        return {}
    if part.type == "refusal" and role == "assistant":
        return {"type": "text", "text": _said(part.refusal, f"{path}.refusal")}
    if part.type not in _TEXT_PARTS:
        raise BadRequest(
            f"{path}.type {part.type[:40]!r} is not supported: this model takes text parts only.", param=f"{path}.type"
        )
    return {"type": "text", "text": _said(part.text, f"{path}.text")}


def _said(text: str | None, path: str) -> str:
    if text is None:
        raise BadRequest(f"{path} is required: it must be a string.", param=path)
    return text


def _calls(message: Message, path: str) -> list[dict[str, Any]]:
    """Earlier calls in the shape templates read; the deprecated `function_call` counts as one."""
    calls = [_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls or ())]
    if message.function_call is not None:
        calls.append({"type": "function", "function": _function(message.function_call)})
    if calls and message.role != "assistant":
        raise BadRequest(f"{path}.tool_calls is only for messages of the assistant.", param=f"{path}.tool_calls")
    return calls


def _call(call: ToolCall, path: str) -> dict[str, Any]:
    return {**({"id": call.id} if call.id else {}), "type": "function", "function": _called(call, path)}


def _called(call: ToolCall, path: str) -> dict[str, Any]:
    """What was called; a custom tool's input in JSON, as templates and the model itself write it."""
    if call.type == "custom":
        if call.custom is None:
            raise BadRequest(f"{path}.custom is required: it must be an object.", param=f"{path}.custom")
        return {"name": call.custom.name, "arguments": msgspec.json.encode({"input": call.custom.input}).decode()}
    if call.function is None:
        raise BadRequest(f"{path}.function is required: it must be an object.", param=f"{path}.function")
    return _function(call.function)


def _function(call: FunctionCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": told_again(call.arguments)}
