"""Tools and the rule of their use, from Anthropic's shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from radixmill.core.errors import BadRequest
from radixmill.front.api.anthropic.body import ToolChoice, ToolSpec
from radixmill.front.session import Tool, ToolRule, template_tools

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Tools(NamedTuple):
    """`shown`: as the chat template sees them."""

    rule: ToolRule | None
    shown: tuple[dict[str, Any], ...]


NONE = Tools(None, ())


def to_tools(specs: Sequence[ToolSpec] | None, choice: ToolChoice | None, *, drop: bool) -> Tools:
    """`drop`: server tools are left out instead of refused. Raises BadRequest naming the place."""
    kept = [(f"tools[{i}]", spec) for i, spec in enumerate(specs or ()) if _is_ours(spec, f"tools[{i}]", drop)]
    tools = [_tool(spec, path) for path, spec in kept]
    _check_names(tools, [path for path, _ in kept])
    rule = _rule(tuple(tools), choice)
    if rule is None:
        return NONE
    examples = {str(spec.name): spec.input_examples for _, spec in kept if spec.input_examples}
    return Tools(rule, tuple(_with_examples(shown, examples) for shown in template_tools(rule)))


def server_tools(specs: Sequence[ToolSpec] | None) -> list[str]:
    """Names of the tools that no one here runs, as X-RadixMill-Ignored has them."""
    return [f"tools[{i}].{spec.type}" for i, spec in enumerate(specs or ()) if not _is_clients(spec)]


def _is_clients(spec: ToolSpec) -> bool:
    """Whether the client runs this tool itself."""
    return spec.type in (None, "custom")


def _is_ours(spec: ToolSpec, path: str, drop: bool) -> bool:
    """Whether the model may know of this tool. Raises BadRequest unless others are to be dropped."""
    if _is_clients(spec):
        return True
    if drop:
        return False
    raise BadRequest(
        f"{path}.type {str(spec.type)[:40]!r} is a tool that a server runs, and this one runs none: leave it out, give it"
        " an input_schema instead of a type, or start the server with --unsupported-tools drop.",
        param=f"{path}.type",
    )


def _tool(spec: ToolSpec, path: str) -> Tool:
    if spec.name is None or not _NAME.fullmatch(spec.name):
        raise BadRequest(f"{path}.name must be 1 to 128 letters, digits, underscores or hyphens.", param=f"{path}.name")
    if spec.input_schema is None:
        raise BadRequest(f"{path}.input_schema is required: it must be a JSON Schema.", param=f"{path}.input_schema")
    if spec.input_schema.get("type") != "object":
        raise BadRequest(f'{path}.input_schema.type must be "object".', param=f"{path}.input_schema.type")
    if spec.defer_loading:
        raise BadRequest(f"{path}.defer_loading is not supported.", param=f"{path}.defer_loading")
    if spec.allowed_callers is not None and "direct" not in spec.allowed_callers:
        raise BadRequest(f'{path}.allowed_callers must include "direct".', param=f"{path}.allowed_callers")
    return Tool(
        name=spec.name,
        description=spec.description or "",
        parameters=spec.input_schema,
        strict=bool(spec.strict),
        field=f"{path}.input_schema",
    )


def _check_names(tools: Sequence[Tool], paths: Sequence[str]) -> None:
    seen: set[str] = set()
    for tool, path in zip(tools, paths, strict=True):
        if tool.name in seen:
            raise BadRequest(f"{path}.name {tool.name!r} is the name of an earlier tool.", param=f"{path}.name")
        seen.add(tool.name)


def _with_examples(shown: dict[str, Any], examples: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Examples of a tool's input go where JSON Schema has a place for them."""
    function = shown["function"]
    if (given := examples.get(function["name"])) is None:
        return shown
    return {**shown, "function": {**function, "parameters": {**function["parameters"], "examples": given}}}


def _rule(tools: tuple[Tool, ...], choice: ToolChoice | None) -> ToolRule | None:
    """None where there is nothing to call."""
    if choice is None:
        return ToolRule(tools=tools) if tools else None
    if choice.name is not None and choice.type != "tool":
        raise BadRequest('tool_choice.name is only for the type "tool".', param="tool_choice.name")
    if choice.type in ("any", "tool"):
        _check_choice(tools, choice)
    if choice.type == "none" or not tools:
        return None
    return ToolRule(
        tools=tools,
        choice="auto" if choice.type == "auto" else "required",
        allowed=(choice.name,) if choice.name is not None else None,
        parallel=not choice.disable_parallel_tool_use,
    )


def _check_choice(tools: tuple[Tool, ...], choice: ToolChoice) -> None:
    if not tools:
        raise BadRequest(f"tool_choice {choice.type!r} needs tools.", param="tool_choice")
    if choice.type == "any":
        return
    if choice.name is None:
        raise BadRequest("tool_choice.name is required: it must be the name of a tool.", param="tool_choice.name")
    if choice.name not in {tool.name for tool in tools}:
        raise BadRequest(
            f"tool_choice.name must be the name of one of the tools, not {choice.name[:80]!r}.",
            param="tool_choice.name",
        )
