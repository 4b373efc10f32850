"""Tools and their history as text, for chat templates that know nothing of tools. Knows nothing of templates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from radixmill.front.dialects.calls.base import Calls
from radixmill.front.dialects.calls.json_object import JsonObject
from radixmill.front.dialects.messages import Message, text_of

HERMES = JsonObject()  # the form of calls that models know who were taught none


def tells_of_tools(messages: Iterable[Message]) -> bool:
    """Whether a conversation has calls or their results."""
    return any(message["role"] == "tool" or message.get("tool_calls") for message in messages)


def told_of(
    form: Calls, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, system: bool = True
) -> list[Message]:
    """The conversation with its tools in the system message, for templates that write calls and results themselves."""
    return _prepended(list(messages), tools_text(form, tools), system=system)


def with_tools(
    form: Calls, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, system: bool = True
) -> list[Message]:
    """The conversation with its tools in the system message, calls and results as text.

    Results are the user's, joined where several follow each other. `system=False`: the template has no place for a
    system message; the tools stand before the first message of the user.
    """
    told = list(_told(form, messages))
    return _prepended(told, tools_text(form, tools), system=system) if tools else told


def tools_text(form: Calls, tools: Iterable[dict[str, Any]]) -> str:
    """What a model is told of its tools, in the words that Hermes-like models were trained on, more or less."""
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"Function signatures, one JSON object a line, within <tools></tools> tags:\n"
        f"<tools>\n{signatures}\n</tools>\n\n"
        f"{_form_text(form)}"
    )


def _form_text(form: Calls) -> str:
    """How to write a call."""
    if not isinstance(form, JsonObject):
        call = form.all_written([("<function-name>", {"<argument-name>": "<argument-value>"})])
        return f"To call functions, write it like this:\n{call}"
    call = f'{{"{form.name_key}": <function-name>, "{form.arguments_keys[0]}": <args-json-object>}}'
    return (
        "For each function call, return a JSON object with the function's name and arguments within "
        f"{form.call.open}{form.call.close} tags:\n"
        f"{form.call.open}{form.pad}{call}{form.pad}{form.call.close}"
    )


def call_text(form: JsonObject, name: str, arguments: Any) -> str:
    """An earlier call as the model would have written it. `arguments`: an object, or its JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{form.head(name)}{text or '{}'}{form.tail()}"


def result_text(text: str) -> str:
    return f"<tool_response>\n{text}\n</tool_response>"


def _told(form: Calls, messages: Iterable[Message]) -> Iterator[Message]:
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(result_text(text_of(message.get("content"))))
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        yield _with_calls(form, message)
    if results:
        yield {"role": "user", "content": "\n".join(results)}


def _with_calls(form: Calls, message: Message) -> Message:
    if not (calls := message.get("tool_calls")):
        return message
    written = _calls_text(form, [call["function"] for call in calls])
    said = text_of(message.get("content"))
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": form.gap.join([said, written] if said else [written])}


def _calls_text(form: Calls, functions: Sequence[dict[str, Any]]) -> str:
    if isinstance(form, JsonObject):
        return form.gap.join(call_text(form, function["name"], function.get("arguments")) for function in functions)
    return form.all_written([(function["name"], _object(function.get("arguments"))) for function in functions])


def _object(arguments: Any) -> dict[str, Any]:
    """Arguments of an earlier call, which may be JSON; that of a call that was cut off is none."""
    try:
        value = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _prepended(messages: list[Message], text: str, *, system: bool) -> list[Message]:
    role = "system" if system else "user"
    at = 0 if system else next((i for i, message in enumerate(messages) if message["role"] == role), 0)
    if at < len(messages) and messages[at]["role"] == role:
        said = text_of(messages[at].get("content"))
        both = f"{said}\n\n{text}" if system else f"{text}\n\n{said}"
        return [*messages[:at], {**messages[at], "content": both}, *messages[at + 1 :]]
    return [{"role": role, "content": text}, *messages]
