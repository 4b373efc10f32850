"""Schemas of arguments that are a list of members, each of which can be bound by itself, however a family writes it."""

from __future__ import annotations

from typing import Any

from radixmill.front.dialects.calls.base import Schema

ANNOTATIONS = frozenset({"title", "description", "default", "example", "examples", "deprecated", "$comment", "$schema"})
_DEFINITIONS = ("$defs", "definitions")
_BASES = frozenset(
    {"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", *_DEFINITIONS}
)  # for references
_KEYWORDS = ANNOTATIONS | {"type", "properties", "required", "additionalProperties", *_DEFINITIONS}


def members_of(schema: Schema) -> dict[str, Any] | None:
    """The members that a schema names, each with its own; None where it asks for more than these and those required.

    Others that it allows are not among them: a grammar need not write them.
    """
    required = schema.get("required", [])
    properties = schema.get("properties", {} if schema.get("additionalProperties") is False else None)
    is_plain = (
        schema.get("type", "object") == "object"
        and _KEYWORDS.issuperset(schema)
        and isinstance(properties, dict)
        and isinstance(required, list)
        and all(name in properties for name in required)
        and _refers_to_definitions(properties)
        and all(_refers_to_definitions(schema.get(keyword)) for keyword in _DEFINITIONS)
    )
    return properties if is_plain else None


def member(schema: Schema, name: str) -> Any:
    """The schema of one of its members by itself, with the definitions that it may refer to."""
    bound = schema["properties"][name]
    if not isinstance(bound, dict):
        return bound
    return {**{key: schema[key] for key in (*_DEFINITIONS, "$schema") if key in schema}, **bound}


def _refers_to_definitions(schema: Any) -> bool:
    """Whether references lead to definitions at the root only: these go along with each member's schema."""
    if isinstance(schema, list):
        return all(map(_refers_to_definitions, schema))
    if not isinstance(schema, dict):
        return True
    if not _BASES.isdisjoint(schema) or isinstance(schema.get("id"), str):
        return False
    reference = schema.get("$ref", "#/$defs/")
    is_inside = isinstance(reference, str) and reference.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS))
    return is_inside and all(map(_refers_to_definitions, schema.values()))
