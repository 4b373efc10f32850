"""Tools as the Responses API writes them → the rule of a session, and their echo.

Functions and custom tools are the client's to run; hosted ones (web_search, mcp, …) would be ours, and we run none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint, ConstraintKind
from radixmill.front.api.openai.responses.body import PromptBody, ToolChoice, echoed
from radixmill.front.api.openai.responses.items import Reading
from radixmill.front.api.openai.tools import checked_parameters
from radixmill.front.session import Tool, ToolRule
from radixmill.front.session.speech import template_tools

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
HOSTED_HINT = "this server runs no tools of its own; it takes function and custom tools, which the client runs"

# Keywords of a JSON Schema with which OpenAI's strict mode is at home: where `strict` is not said, arguments follow a
# schema that has no others, as there.
PLAIN = frozenset({"type", "properties", "required", "items", "enum", "const", "anyOf", "additionalProperties"}) | {
    "$ref",
    "$defs",
    "$schema",
    "definitions",
    "description",
    "title",
    "default",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
}
BRANCHES = ("anyOf",)
NAMED = ("properties", "$defs", "definitions")


class FunctionTool(Struct, kw_only=True):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None = None  # a hint
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class Grammar(Struct, kw_only=True):
    """What a custom tool's input must be."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(Struct, kw_only=True):
    type: Literal["custom"]
    name: str
    description: str | None = None
    format: Grammar | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class Tools(NamedTuple):
    """What a body says of tools, understood."""

    rule: ToolRule | None  # None: there are none
    template: tuple[dict[str, Any], ...]  # as chat templates read them
    echo: list[dict[str, Any]]
    choice: str | dict[str, Any]  # echoed


def read_tools(body: PromptBody, reading: Reading, *, drop: bool) -> Tools:
    """Raises BadRequest naming the place. `drop`: hosted tools are left out, and noted, instead of refused."""
    given = [
        (f"tools[{i}]", _read(tool, f"tools[{i}]", reading))
        for i, tool in enumerate(body.tools or ())
        if not _is_dropped(tool, f"tools[{i}]", reading, drop)
    ]
    tools = tuple(_tool(tool, path) for path, tool in given)
    names = [tool.name for tool in tools]
    for (path, _), name in zip(given, names, strict=True):
        if names.count(name) > 1:
            raise BadRequest(f"{path}.name: two tools are called {name!r}.", param=f"{path}.name")
    rule = _rule(body, tools)
    choice = body.tool_choice or "auto"
    return Tools(
        rule if tools else None,
        template_tools(rule),
        [_echo(original, tool) for (_, original), tool in zip(given, tools, strict=True)],
        choice if isinstance(choice, str) else echoed(choice),
    )


def _is_dropped(tool: Any, path: str, reading: Reading, drop: bool) -> bool:
    if not isinstance(tool, dict):
        raise BadRequest(f"{path} must be an object.", param=path)
    if not isinstance(tool.get("type"), str):
        raise BadRequest(f'{path}.type is required: it must be "function" or "custom".', param=f"{path}.type")
    kind = tool["type"]
    if kind in ("function", "custom"):
        return False
    if not drop:
        raise BadRequest(f"{path}.type {kind[:40]!r} is not supported: {HOSTED_HINT}.", param=f"{path}.type")
    reading.ignored.append(f"{path}.{kind}")
    return True


def _read(given: dict[str, Any], path: str, reading: Reading) -> FunctionTool | CustomTool:
    kind: type[FunctionTool | CustomTool] = CustomTool if given["type"] == "custom" else FunctionTool
    tool = reading.typed(given, kind, path)
    _check_tool(tool, path)
    return tool


def _tool(given: FunctionTool | CustomTool, path: str) -> Tool:
    if isinstance(given, CustomTool):
        return Tool(
            name=given.name,
            description=given.description or "",
            custom=True,
            format=_format(given.format, f"{path}.format"),
            field=f"{path}.format",
        )
    return Tool(
        name=given.name,
        description=given.description or "",
        parameters=checked_parameters(given.parameters, f"{path}.parameters"),
        strict=is_plain(given.parameters or {}) if given.strict is None else given.strict,
        field=f"{path}.parameters",
    )


def _check_tool(tool: FunctionTool | CustomTool, path: str) -> None:
    if not NAME.fullmatch(tool.name):
        raise BadRequest(
            f"{path}.name must be 1 to 128 of the characters A-Z, a-z, 0-9, _ and -.", param=f"{path}.name"
        )
    if tool.defer_loading:
        raise BadRequest(
            f"{path}.defer_loading is not supported: no tool here searches.", param=f"{path}.defer_loading"
        )
    if tool.allowed_callers and "direct" not in tool.allowed_callers:
        raise BadRequest(
            f'{path}.allowed_callers must have "direct": the model is the only caller here.',
            param=f"{path}.allowed_callers",
        )


def _format(given: Grammar | None, path: str) -> Constraint | None:
    if given is None or given.type == "text":
        return None
    for name in ("syntax", "definition"):
        if not getattr(given, name):
            raise BadRequest(
                f"{path}.{name} is required: it must be a string that is not empty.", param=f"{path}.{name}"
            )
    kinds: dict[str, ConstraintKind] = {"regex": "regex"}
    if given.syntax not in kinds:
        raise BadRequest(f"{path}.syntax: Lark grammars are not supported; use regex.", param=f"{path}.syntax")
    return Constraint(kind=kinds[given.syntax], text=given.definition or "")


def is_plain(schema: Any) -> bool:
    """Whether a JSON Schema has only keywords of PLAIN, at every depth."""
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    lists, named = ([schema[name] for name in names if name in schema] for names in (BRANCHES, NAMED))
    if not PLAIN.issuperset(schema) or not _are(list, lists) or not _are(dict, named):
        return False
    below = [schema[name] for name in ("items", "additionalProperties") if name in schema]
    below += [inner for one in lists for inner in one]
    below += [inner for one in named for inner in one.values()]
    return all(map(is_plain, below))


def _are(kind: type, values: Sequence[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _rule(body: PromptBody, tools: tuple[Tool, ...]) -> ToolRule:
    choice, parallel = body.tool_choice, body.parallel_tool_calls is not False
    match choice:
        case None | "auto" | "none":
            return ToolRule(tools=tools, choice=choice or "auto", parallel=parallel)
        case "required":
            if not tools:
                raise BadRequest("tool_choice is required, but there are no tools to choose from.", param="tool_choice")
            return ToolRule(tools=tools, choice="required", parallel=parallel)
        case ToolChoice(type="allowed_tools"):
            allowed = _allowed(choice, tools)
            return ToolRule(tools=tools, choice=choice.mode or "auto", allowed=allowed, parallel=parallel)
        case ToolChoice(type="function" | "custom"):
            name = _known(choice.type, choice.name, tools, "tool_choice")
            return ToolRule(tools=tools, choice="required", allowed=(name,), parallel=parallel)
        case _:
            raise BadRequest(
                f"tool_choice.type {choice.type[:40]!r} is not supported: {HOSTED_HINT}.", param="tool_choice.type"
            )


def _allowed(choice: ToolChoice, tools: tuple[Tool, ...]) -> tuple[str, ...]:
    for name in ("mode", "tools"):
        if getattr(choice, name) is None:
            raise BadRequest(f"tool_choice.{name} is required.", param=f"tool_choice.{name}")
    if not choice.tools:
        raise BadRequest("tool_choice.tools must name at least one tool.", param="tool_choice.tools")
    return tuple(
        _known(tool.get("type"), tool.get("name"), tools, f"tool_choice.tools[{i}]")
        for i, tool in enumerate(choice.tools)
    )


def _known(kind: Any, name: Any, tools: Sequence[Tool], path: str) -> str:
    if kind not in ("function", "custom"):
        raise BadRequest(f"{path}.type {str(kind)[:40]!r} is not supported: {HOSTED_HINT}.", param=f"{path}.type")
    if not any(tool.name == name and tool.custom == (kind == "custom") for tool in tools):
        raise BadRequest(f"{path}.name: there is no {kind} tool {str(name)[:80]!r}.", param=f"{path}.name")
    return str(name)


def _echo(given: FunctionTool | CustomTool, tool: Tool) -> dict[str, Any]:
    if tool.custom:
        return {"format": {"type": "text"}, **echoed(given)}
    return {**echoed(given), "parameters": tool.parameters, "strict": tool.strict}
