"""What the text of a parameter means, by the JSON Schema of the tool: text as it is, or JSON.

Whether a parameter is written as it is depends on its schema alone: reader and grammar both ask `is_text`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from radixmill.front.dialects.calls.base import Schema
from radixmill.front.dialects.extent import SPACE, read

Kinds = frozenset[str]
"""Types of JSON values, as schemas name them; numbers without a fraction are both "integer" and "number"."""

ANY: Kinds = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
TEXT: Kinds = frozenset({"string"})
MAX_DEPTH = 64  # of schemas within schemas; what is deeper may be anything
MAX_LOOKS = 2_000  # schemas looked at for one parameter; beyond, it may be anything
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def is_text(parameters: Schema, name: str) -> bool:
    """Whether a parameter can be nothing but a string."""
    return kinds_of(parameters, name) == TEXT


def kinds_of(parameters: Schema, name: str) -> Kinds:
    """The types that a parameter may have; perhaps more than those, never less where the schema is plain."""
    look = _Look(parameters)
    found = [look.kinds(schema, 0) for schema in look.schemas(parameters, name, 0)]
    return _union(found) if found else ANY


def quoted(text: str) -> str:
    """A text as JSON."""
    return json.dumps(text, ensure_ascii=False)


def json_of(text: str, kinds: Kinds) -> str:
    """The JSON in a text, if it is of one of the types; else the text as a JSON string."""
    found = json_in(text, kinds)
    return quoted(text) if found is None else found


def json_in(text: str, kinds: Kinds) -> str | None:
    """The JSON in a text, if it is of one of the types."""
    bare = text.strip(SPACE)
    said = _PYTHON.get(bare, bare)
    try:
        value = read(said)
    except ValueError:
        return None
    return said if _kind(value) in kinds else None


class _Look:
    """One walk through a schema."""

    def __init__(self, root: Schema) -> None:
        self.root, self.left = root, MAX_LOOKS

    def kinds(self, schema: Any, depth: int) -> Kinds:
        self.left -= 1
        if not isinstance(schema, dict):
            return frozenset() if schema is False else ANY
        if depth > MAX_DEPTH or self.left < 0:
            return ANY
        found = _typed(schema) & _listed(schema)
        if "$ref" in schema:
            found &= self.kinds(self.target(schema["$ref"]), depth + 1)
        for part in _schemas(schema, "allOf"):
            found &= self.kinds(part, depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if parts := _schemas(schema, keyword):
                found &= _union(self.kinds(part, depth + 1) for part in parts)
        return found

    def schemas(self, schema: Any, name: str, depth: int) -> Iterator[Any]:
        """What a schema of objects says of a member, wherever it says it."""
        self.left -= 1
        if not isinstance(schema, dict) or depth > MAX_DEPTH or self.left < 0:
            return
        members = schema.get("properties")
        if isinstance(members, dict) and name in members:
            yield members[name]
        elif isinstance(rest := schema.get("additionalProperties"), dict):
            yield rest
        parts = [part for keyword in ("allOf", "anyOf", "oneOf") for part in _schemas(schema, keyword)]
        for part in [*parts, *([self.target(schema["$ref"])] if "$ref" in schema else [])]:
            yield from self.schemas(part, name, depth + 1)

    def target(self, reference: Any) -> Any:
        """What a reference within the schema points to; None where there is nothing."""
        found: Any = self.root
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        for key in filter(None, reference[1:].split("/")):
            key = key.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
        return found


def _typed(schema: Mapping[str, Any]) -> Kinds:
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else ANY
    return frozenset(name for name in names if isinstance(name, str)) | ({"integer"} if "number" in names else set())


def _listed(schema: Mapping[str, Any]) -> Kinds:
    values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else None
    return frozenset(map(_kind, values)) if isinstance(values, list) else ANY


def _schemas(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    parts = schema.get(keyword)
    return parts if isinstance(parts, list) else []


def _union(kinds: Iterable[Kinds]) -> Kinds:
    return frozenset().union(*kinds)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
