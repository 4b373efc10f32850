"""Members of an object, written otherwise than JSON writes them, as a grammar: `a=1, b="x"`, `a:1,b:<|"|>x<|"|>`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from radixmill.front.dialects.calls.base import Format, Schema, constant, either, sequence

MOST = 30  # members; the grammar grows with their square
_SHARED = ("$defs", "definitions")
_PLAIN = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "title",
    "description",
    "$schema",
    "examples",
    "default",
}
_ELSEWHERE = re.compile(r'"\$(id|anchor|dynamicAnchor|dynamicRef|recursiveRef)"|"\$ref": "(?!#/(\$defs|definitions)/)')


def members_format(
    schema: Schema, key: Callable[[str], str], value: Callable[[Schema], Format], separator: str
) -> Format | None:
    """The members that the schema names, in its order, those that are not required perhaps left out; None where that is
    not all that the schema asks for, or names no members. `key`: a name and what stands between it and its value."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not _is_plain(schema) or not isinstance(properties, dict) or not 0 < len(properties) <= MOST:
        return None
    if not set(required) <= properties.keys() or not all(map(str.isidentifier, properties)):
        return None
    shared = {word: schema[word] for word in _SHARED if word in schema}
    parts = [sequence(constant(key(name)), value(_with(shared, below))) for name, below in properties.items()]
    return _in_order(parts, [name in required for name in properties], separator)


def _is_plain(schema: Schema) -> bool:
    return schema.keys() <= _PLAIN | {*_SHARED} and not _ELSEWHERE.search(json.dumps(schema))


def _with(shared: Schema, schema: Schema) -> Schema:
    return {**shared, **schema} if isinstance(schema, dict) else schema


def _in_order(parts: Sequence[Format], needed: Sequence[bool], separator: str) -> Format:
    """Whichever part is the first, and those behind it."""
    firsts = range(needed.index(True) + 1 if True in needed else len(parts))
    ways = [sequence(parts[i], *_behind(parts[i + 1 :], needed[i + 1 :], separator)) for i in firsts]
    if True not in needed:
        ways.append(constant(""))
    return ways[0] if len(ways) == 1 else either(*ways)


def _behind(parts: Sequence[Format], needed: Sequence[bool], separator: str) -> list[Format]:
    found = [sequence(constant(separator), part) for part in parts]
    return [part if must else {"type": "optional", "content": part} for part, must in zip(found, needed, strict=True)]
