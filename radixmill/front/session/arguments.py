"""The schema that arguments of a call are bound by: the tool's own, as far as a caller means it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What stands beside `properties` in a schema whose members are all that it is about.
_MEMBERS_ONLY = frozenset(
    {"type", "properties", "required", "title", "description", "default", "example", "examples", "deprecated"}
    | {"$comment", "$schema", "$defs", "definitions"}
)
# Where a narrower schema is no narrower whole: what it excludes may be what another part asks for.
_NOT_ALONE = frozenset(
    {"allOf", "oneOf", "not", "if", "dependentSchemas", "dependencies", "contains", "patternProperties"}
    | {"unevaluatedProperties", "unevaluatedItems"}
)
_BESIDE = _MEMBERS_ONLY - {"type", "properties", "required"}  # what may stand beside a reference or alternatives


def bound_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a grammar binds arguments by: objects, whose members are those that the schema lists."""
    return of_object(_listed_only(parameters) if _stands_alone(parameters) else parameters)


def of_object(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of arguments that takes objects only, whatever else it says.

    It stays the root, to which its references may point. Beside $ref older drafts look at nothing, so that moves down.
    """
    bound = {"type": "object", **parameters}
    if "$ref" in bound:
        moved = [{key: bound.pop(key)} for key in ("$ref", "allOf") if key in bound]
        bound["allOf"] = moved
    return bound


def _stands_alone(schema: Any) -> bool:
    """Whether each part of a schema says alone what its values are."""
    if isinstance(schema, list):
        return all(map(_stands_alone, schema))
    if not isinstance(schema, Mapping):
        return True
    elsewhere = {"$ref", "anyOf"} & schema.keys()
    shared = len(elsewhere) > 1 or (elsewhere and not schema.keys() <= _BESIDE | elsewhere)
    return not shared and _NOT_ALONE.isdisjoint(schema) and all(map(_stands_alone, schema.values()))


def _listed_only(schema: Any) -> Any:
    """Objects without members that nobody listed, unless the schema speaks of such.

    A model that may invent members invents them without end; who lists some and leaves the rest unsaid wants none.
    """
    if isinstance(schema, list):
        return [_listed_only(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: value if key in _VALUES else _parts(key, value) for key, value in schema.items()}
    properties, required = schema.get("properties"), schema.get("required", [])
    if isinstance(properties, Mapping) and schema.keys() <= _MEMBERS_ONLY and isinstance(required, list):
        made |= (
            {"additionalProperties": False}
            if all(isinstance(name, str) and name in properties for name in required)
            else {}
        )
    return made


_VALUES = frozenset({"default", "example", "examples", "enum", "const", "required"})  # no schemas
_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions"})


def _parts(key: str, value: Any) -> Any:
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: _listed_only(part) for name, part in value.items()}
    return _listed_only(value)
