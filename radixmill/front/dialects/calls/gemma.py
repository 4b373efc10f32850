"""Gemma 4's calls: `<|tool_call>call:f{city:<|"|>Paris<|"|>,days:3}<tool_call|>`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from radixmill.front.dialects.calls.base import (
    NO_ARGUMENTS,
    Begun,
    Callee,
    Calls,
    Format,
    Given,
    Reader,
    Schema,
    Tags,
    Target,
    ToolShape,
    constant,
    json_schema,
    sequence,
    word,
)
from radixmill.front.dialects.calls.json_object import checked, string
from radixmill.front.dialects.calls.members import members_format
from radixmill.front.dialects.calls.python_literal import atom
from radixmill.front.dialects.extent import MAX_DEPTH, read
from radixmill.front.dialects.scan import Malformed, Scan, Steps

QUOTE = '<|"|>'
TEXT_BEGINS, TEXT_ENDS = f"{{input:{QUOTE}", f"{QUOTE}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmaObject(Calls):
    """Keys are bare, texts stand in quotes of their own. Keys and values may be JSON, too."""

    call: Tags = Tags("<|tool_call>", "<tool_call|>")
    gap: str = ""
    kind: str = "call:"

    @property
    def tags(self) -> set[str]:
        return {*self.call, QUOTE}

    # --- reading

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        yield from scan.space()
        yield from scan.expect(self.kind)
        name = yield from word(scan)
        yield Begun(name)
        if name in tools and tools[name].shape == "text":
            yield from scan.expect(TEXT_BEGINS)
            yield from self.free_text(scan)
            return
        yield from scan.space()
        yield from _object(scan, told=True)

    # --- writing

    def head(self, name: str, shape: ToolShape = "object") -> str:
        return f"{self.call.open}{self.kind}{name}{TEXT_BEGINS if shape == 'text' else ''}"

    def tail(self, shape: ToolShape = "object") -> str:
        return f"{TEXT_ENDS if shape == 'text' else ''}{self.call.close}"

    def written(self, name: str, arguments: Mapping[str, Any]) -> str:
        return f"{self.head(name)}{_written(dict(arguments))}{self.tail()}"

    # --- grammar

    def content(self, target: Target) -> Format:
        if target.shape == "text":
            return target.text
        if target.schema == NO_ARGUMENTS:
            return constant("{}")
        members = members_format(target.schema, "{}:".format, _value_format, ",")
        return sequence(constant("{"), members, constant("}")) if members else json_schema(target.schema)


# --- reading


def _object(scan: Scan, depth: int = 1, *, told: bool = False) -> Steps[str]:
    """The JSON of an object, its parts given when they are whole if `told`. Raises Malformed."""
    parts, keys = ["{"], set[str]()
    yield from scan.expect("{")
    yield from scan.space()
    if told:
        yield Given("{")
    while not (yield from scan.takes("}")):
        parts.append((", " if keys else "") + (yield from _member(scan, depth, keys)))
        if told:
            yield Given(parts[-1])
        if (yield from scan.expect(",", "}")) == "}":
            break
        yield from scan.space()
    if told:
        yield Given("}")
    return f"{''.join(parts)}}}"


def _member(scan: Scan, depth: int, keys: set[str]) -> Steps[str]:
    """A member, and the space behind it."""
    quoted = (yield from scan.which(QUOTE)) or (yield from scan.which('"'))
    key = (yield from _text(scan)) if quoted else _dumped((yield from word(scan, ":")))
    if (name := _dumped(read(key))) in keys:
        raise Malformed
    keys.add(name)
    yield from scan.space()
    yield from scan.expect(":")
    yield from scan.space()
    value = yield from _value(scan, depth + 1)
    yield from scan.space()
    return f"{key}: {value}"


def _value(scan: Scan, depth: int) -> Steps[str]:
    if depth > MAX_DEPTH:
        raise Malformed
    if (yield from scan.which("{")):
        return (yield from _object(scan, depth))
    if (yield from scan.which("[")):
        return (yield from _list(scan, depth))
    if (yield from scan.which(QUOTE)) or (yield from scan.which('"')):
        return (yield from _text(scan))
    return (yield from atom(scan))


def _list(scan: Scan, depth: int) -> Steps[str]:
    items: list[str] = []
    yield from scan.expect("[")
    yield from scan.space()
    while not (yield from scan.takes("]")):
        items.append((yield from _value(scan, depth + 1)))
        yield from scan.space()
        if (yield from scan.expect(",", "]")) == "]":
            break
        yield from scan.space()
    return f"[{', '.join(items)}]"


def _text(scan: Scan) -> Steps[str]:
    """The JSON of a text in either kind of quotes."""
    if not (yield from scan.takes(QUOTE)):
        text = yield from string(scan)
        checked(text)
        return text
    said = yield from scan.until(QUOTE)
    scan.at += len(QUOTE)
    return _dumped(said)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- writing


def _written(value: Any) -> str:
    match value:
        case str():
            return f"{QUOTE}{value}{QUOTE}"
        case dict():
            return f"{{{','.join(f'{key}:{_written(item)}' for key, item in value.items())}}}"
        case list():
            return f"[{','.join(map(_written, value))}]"
    return _dumped(value)


def _value_format(schema: Schema) -> Format:
    """A text that nothing binds, as the model writes it; anything else as JSON."""
    if not isinstance(schema, dict) or schema.get("type") != "string" or not schema.keys() <= _FREE_TEXT:
        return json_schema(schema)
    return {"type": "tag", "begin": QUOTE, "content": {"type": "any_text"}, "end": QUOTE}


_FREE_TEXT = {"type", "title", "description", "examples", "default", "$defs", "definitions"}
