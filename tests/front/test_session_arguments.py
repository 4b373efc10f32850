"""Schemas of arguments as a grammar has them: objects, without members that nobody listed; never wider than asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from radixmill.front.session.arguments import bound_schema

A = {"a": {"type": "integer"}}
INNER = {"properties": {"b": {"type": "string"}}}


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False}


@pytest.mark.parametrize(
    "given, bound",
    [
        ({}, {"type": "object"}),
        ({"properties": A}, closed({"type": "object", "properties": A})),
        ({"properties": {"o": INNER}}, closed({"type": "object", "properties": {"o": closed(INNER)}})),
        (
            {"type": "object", "properties": {"l": {"type": "array", "items": INNER}}},
            closed({"type": "object", "properties": {"l": {"type": "array", "items": closed(INNER)}}}),
        ),
        (
            {"properties": {"u": {"anyOf": [INNER, {"type": "null"}]}}},
            closed({"type": "object", "properties": {"u": {"anyOf": [closed(INNER), {"type": "null"}]}}}),
        ),
        (
            {"properties": {"r": {"$ref": "#/$defs/d"}}, "$defs": {"d": INNER}},
            closed({"type": "object", "properties": {"r": {"$ref": "#/$defs/d"}}, "$defs": {"d": closed(INNER)}}),
        ),
        ({"$ref": "#/$defs/d", "$defs": {"d": INNER}}, {"type": "object", "$defs": {"d": closed(INNER)}, "allOf": [{"$ref": "#/$defs/d"}]}),
    ],
)  # fmt: skip
def test_members_that_nobody_listed_are_left_out(given, bound):
    assert bound_schema(given) == bound


@pytest.mark.parametrize(
    "given",
    [
        {"properties": A, "additionalProperties": True},
        {"properties": A, "additionalProperties": {"type": "string"}},
        {"properties": A, "patternProperties": {"^x": {}}},
        {"properties": A, "minProperties": 2},
        {"properties": A, "required": ["z"]},
        {"properties": A, "anyOf": [INNER, {}]},
        {"allOf": [{"properties": A}, INNER]},
        {"oneOf": [{"properties": A}, INNER]},
        {"not": INNER},
        {"properties": {"r": {"$ref": "#/$defs/d", "properties": A}}, "$defs": {"d": INNER}},
        {"enum": [INNER]},
    ],
)
def test_what_speaks_of_others_stays(given):
    assert bound_schema(given) == {"type": "object", **given}


def test_constants_are_no_schemas():
    given = {"properties": {"c": {"const": INNER, "default": INNER}}}
    assert bound_schema(given)["properties"] == given["properties"]


VALUES = st.sampled_from(
    [None, 1, "x", {}, {"a": 1}, {"b": "x"}, {"a": 1, "b": "x"}, {"a": {"b": "x", "c": 1}}, [{"b": 1}]]
)
LEAF = st.sampled_from([{}, {"type": "integer"}, {"type": ["object", "null"]}, INNER, {"$ref": "#/$defs/d"}])
SCHEMAS = st.recursive(
    LEAF,
    lambda below: st.fixed_dictionaries({}, optional={
        "properties": st.dictionaries(st.sampled_from("ab"), below, max_size=2),
        "required": st.lists(st.sampled_from("ab"), max_size=1),
        "items": below,
        "anyOf": st.lists(below, min_size=1, max_size=2),
        "oneOf": st.lists(below, min_size=1, max_size=2),
        "allOf": st.lists(below, min_size=1, max_size=2),
        "not": below,
        "additionalProperties": st.booleans(),
    }),
    max_leaves=6,
)  # fmt: skip


@given(SCHEMAS, VALUES)
@settings(max_examples=300, deadline=None)
def test_what_is_bound_is_valid(schema, value):
    whole = {**schema, "$defs": {"d": INNER}}
    if Draft202012Validator(bound_schema(whole)).is_valid(value):
        assert Draft202012Validator(whole).is_valid(value), json.dumps(whole)
