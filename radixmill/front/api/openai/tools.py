"""Tools as chat completions write them → the rule of a session."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint
from radixmill.front.session import Tool, ToolRule
from radixmill.front.session.limits import size

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FunctionBody(Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class GrammarBody(Struct, kw_only=True):
    definition: str
    syntax: Literal["lark", "regex"]


class InputFormat(Struct, kw_only=True):
    type: Literal["text", "grammar"]
    grammar: GrammarBody | None = None


class CustomBody(Struct, kw_only=True):
    name: str
    description: str | None = None
    format: InputFormat | None = None


class ToolBody(Struct, kw_only=True):
    """`type` is "function" or "custom"; the tools that OpenAI hosts are refused by name."""

    type: str
    function: FunctionBody | None = None
    custom: CustomBody | None = None


class Named(Struct, kw_only=True):
    name: str


class AllowedTool(Struct, kw_only=True):
    type: Literal["function", "custom"]
    function: Named | None = None
    custom: Named | None = None


class AllowedTools(Struct, kw_only=True):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class ChoiceBody(Struct, kw_only=True):
    type: Literal["function", "custom", "allowed_tools"]
    function: Named | None = None
    custom: Named | None = None
    allowed_tools: AllowedTools | None = None


Tools = Annotated[list[ToolBody], size("tools")]
Functions = Annotated[list[FunctionBody], size("tools")]
ToolChoice = Literal["none", "auto", "required"] | ChoiceBody
FunctionChoice = Literal["none", "auto"] | Named


def to_rule(tools: Sequence[ToolBody] | None, choice: ToolChoice | None, parallel: bool | None) -> ToolRule | None:
    """None where there are no tools. Raises BadRequest naming the place."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise BadRequest("tool_choice asks for a tool call, but there are no tools.", param="tool_choice")
        return None
    known = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools))
    _check_names(known, [f"tools[{i}].{tool.type}.name" for i, tool in enumerate(tools)])
    return _chosen(known, choice or "auto", parallel is not False)


def to_function_rule(functions: Sequence[FunctionBody] | None, choice: FunctionChoice | None) -> ToolRule | None:
    """The older names of tools and tool_choice; one call at most. None where there are none. Raises BadRequest."""
    if not functions:
        if isinstance(choice, Named):
            raise BadRequest("function_call names a function, but there are no functions.", param="function_call")
        return None
    known = tuple(_function(function, f"functions[{i}]") for i, function in enumerate(functions))
    _check_names(known, [f"functions[{i}].name" for i in range(len(functions))])
    if not isinstance(choice, Named):
        return ToolRule(tools=known, choice=choice or "auto", parallel=False)
    allowed = (_known(choice, False, known, "function_call"),)
    return ToolRule(tools=known, choice="required", allowed=allowed, parallel=False)


def _tool(tool: ToolBody, path: str) -> Tool:
    match tool.type:
        case "function":
            return _function(_present(tool.function, f"{path}.function"), f"{path}.function")
        case "custom":
            return _custom(_present(tool.custom, f"{path}.custom"), f"{path}.custom")
    raise BadRequest(
        f'{path}.type {tool.type[:40]!r} is not supported: it must be "function" or "custom", tools that the client runs.',
        param=f"{path}.type",
    )


def _function(given: FunctionBody, path: str) -> Tool:
    return Tool(
        name=given.name,
        description=given.description or "",
        parameters=checked_parameters(given.parameters, f"{path}.parameters"),
        strict=bool(given.strict),
        field=f"{path}.parameters",
    )


def checked_parameters(parameters: dict[str, Any] | None, path: str) -> dict[str, Any] | None:
    """Arguments are objects: raises BadRequest for a schema that names another type."""
    if parameters is not None and parameters.get("type", "object") != "object":
        raise BadRequest(f'{path}.type must be "object".', param=f"{path}.type")
    return parameters


def _custom(given: CustomBody, path: str) -> Tool:
    return Tool(
        name=given.name,
        description=given.description or "",
        custom=True,
        format=_format(given.format, f"{path}.format"),
        field=f"{path}.format",
    )


def _format(given: InputFormat | None, path: str) -> Constraint | None:
    if given is None or given.type == "text":
        return None
    grammar = _present(given.grammar, f"{path}.grammar")
    if grammar.syntax == "lark":
        raise BadRequest(
            f"{path}.grammar.syntax: grammars in Lark are not supported; regex is.", param=f"{path}.grammar.syntax"
        )
    if not grammar.definition:
        raise BadRequest(f"{path}.grammar.definition must not be empty.", param=f"{path}.grammar.definition")
    return Constraint(kind="regex", text=grammar.definition)


def _present(value: T | None, path: str) -> T:
    if value is None:
        raise BadRequest(f"{path} is required: it must be an object.", param=path)
    return value


def _check_names(tools: Sequence[Tool], paths: Sequence[str]) -> None:
    seen: set[str] = set()
    for tool, path in zip(tools, paths, strict=True):
        if not NAME.fullmatch(tool.name):
            raise BadRequest(f"{path} must be 1 to 64 of the characters A-Z, a-z, 0-9, _ and -.", param=path)
        if tool.name in seen:
            raise BadRequest(f"{path}: two tools are called {tool.name!r}.", param=path)
        seen.add(tool.name)


def _chosen(tools: tuple[Tool, ...], choice: ToolChoice, parallel: bool) -> ToolRule:
    match choice:
        case "none" | "auto" | "required":
            return ToolRule(tools=tools, choice=choice, parallel=parallel)
        case ChoiceBody(type="allowed_tools"):
            allowed = _present(choice.allowed_tools, "tool_choice.allowed_tools")
            return ToolRule(tools=tools, choice=allowed.mode, allowed=_allowed(allowed, tools), parallel=parallel)
        case ChoiceBody(type=kind):
            path = f"tool_choice.{kind}"
            named = _present(choice.custom if kind == "custom" else choice.function, path)
            name = _known(named, kind == "custom", tools, path)
            return ToolRule(tools=tools, choice="required", allowed=(name,), parallel=parallel)


def _allowed(given: AllowedTools, tools: Sequence[Tool]) -> tuple[str, ...]:
    path = "tool_choice.allowed_tools.tools"
    if not given.tools:
        raise BadRequest(f"{path} must name at least one tool.", param=path)
    return tuple(_allowed_one(tool, tools, f"{path}[{i}]") for i, tool in enumerate(given.tools))


def _allowed_one(given: AllowedTool, tools: Sequence[Tool], path: str) -> str:
    custom = given.type == "custom"
    inner = f"{path}.{given.type}"
    return _known(_present(given.custom if custom else given.function, inner), custom, tools, inner)


def _known(named: Named, custom: bool, tools: Sequence[Tool], path: str) -> str:
    if not any(tool.name == named.name and tool.custom == custom for tool in tools):
        kind = "custom tool" if custom else "function"
        raise BadRequest(f"{path}.name: there is no {kind} {named.name[:64]!r}.", param=f"{path}.name")
    return named.name
