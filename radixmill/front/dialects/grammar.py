"""Tool calls as a grammar: the formats of structural tags that XGrammar reads (https://xgrammar.mlc.ai/docs), as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from radixmill.front.dialects.dialect import Dialect, ToolShape

Format = dict[str, Any]


class Target(NamedTuple):
    """A tool that may be called, and the format of its input."""

    name: str
    shape: ToolShape
    content: Format


def schema(value: Any) -> Format:
    """JSON that matches a JSON Schema."""
    return {"type": "json_schema", "json_schema": value}


NOTHING: Format = {"type": "const_string", "value": "{}"}  # the arguments of a tool that takes none
INPUT = schema({
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
})  # fmt: skip


def only_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool) -> Format:
    """One call or, with `parallel`, more, and nothing else."""
    return {
        "type": "tags_with_separator",
        "tags": [_tag(dialect, target) for target in targets],
        "separator": dialect.gap,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def text_and_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool) -> Format:
    """Free text, in which the opening tag begins a call."""
    return {
        "type": "triggered_tags",
        "triggers": [dialect.call_open],
        "tags": [_tag(dialect, target) for target in targets],
        "at_least_one": False,
        "stop_after_first": not parallel,
    }


def after_thoughts(dialect: Dialect, then: Format) -> Format:
    """`then`, perhaps behind thoughts."""
    thoughts = {
        "type": "tag",
        "begin": dialect.think_open,
        "content": {"type": "any_text"},
        "end": dialect.think_close,
    }
    return {"type": "sequence", "elements": [{"type": "optional", "content": thoughts}, then]}


def either(*formats: Format) -> Format:
    return {"type": "or", "elements": list(formats)}


def _tag(dialect: Dialect, target: Target) -> Format:
    return {
        "type": "tag",
        "begin": dialect.head(target.name, target.shape),
        "content": target.content,
        "end": dialect.tail(target.shape),
    }
