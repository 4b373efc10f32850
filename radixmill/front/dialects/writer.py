"""Tools and their history as text, for chat templates that know nothing of tools. Knows nothing of templates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from radixmill.front.dialects.dialect import Dialect

Message = dict[str, Any]


def tells_of_tools(messages: Iterable[Message]) -> bool:
    """Whether a conversation has calls or their results."""
    return any(message["role"] == "tool" or message.get("tool_calls") for message in messages)


def with_tools(
    dialect: Dialect, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, system: bool = True
) -> list[Message]:
    """The conversation with its tools in the system message, calls and results as text in the dialect.

    Results are the user's, joined where several follow each other. `system=False`: the template has no place for a
    system message; the tools stand before the first message of the user.
    """
    told = list(_told(dialect, messages))
    return _prepended(told, tools_text(dialect, tools), system=system) if tools else told


def tools_text(dialect: Dialect, tools: Iterable[dict[str, Any]]) -> str:
    """What a model is told of its tools, in the words that Hermes-like models were trained on, more or less."""
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    call = f'{{"{dialect.name_key}": <function-name>, "{dialect.arguments_key}": <args-json-object>}}'
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"Function signatures, one JSON object a line, within {dialect.tools_open}{dialect.tools_close} tags:\n"
        f"{dialect.tools_open}\n{signatures}\n{dialect.tools_close}\n\n"
        "For each function call, return a JSON object with the function's name and arguments within "
        f"{dialect.call_open}{dialect.call_close} tags:\n"
        f"{dialect.call_open}{dialect.gap}{call}{dialect.gap}{dialect.call_close}"
    )


def call_text(dialect: Dialect, name: str, arguments: Any) -> str:
    """An earlier call as the model would have written it. `arguments`: an object, or its JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{dialect.head(name)}{text or '{}'}{dialect.tail()}"


def result_text(dialect: Dialect, text: str) -> str:
    return f"{dialect.result_open}\n{text}\n{dialect.result_close}"


def _told(dialect: Dialect, messages: Iterable[Message]) -> Iterator[Message]:
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(result_text(dialect, _text(message.get("content"))))
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        yield _with_calls(dialect, message)
    if results:
        yield {"role": "user", "content": "\n".join(results)}


def _with_calls(dialect: Dialect, message: Message) -> Message:
    if not (calls := message.get("tool_calls")):
        return message
    functions = [call["function"] for call in calls]
    parts = [call_text(dialect, function["name"], function.get("arguments")) for function in functions]
    said = _text(message.get("content"))
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": dialect.gap.join([said, *parts] if said else parts)}


def _prepended(messages: list[Message], text: str, *, system: bool) -> list[Message]:
    role = "system" if system else "user"
    at = 0 if system else next((i for i, message in enumerate(messages) if message["role"] == role), 0)
    if at < len(messages) and messages[at]["role"] == role:
        said = _text(messages[at].get("content"))
        both = f"{said}\n\n{text}" if system else f"{text}\n\n{said}"
        return [*messages[:at], {**messages[at], "content": both}, *messages[at + 1 :]]
    return [{"role": role, "content": text}, *messages]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content)
    return content or ""
