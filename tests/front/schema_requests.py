"""Requests out of OpenAI's published schema: valid ones, invalid ones, and valid ones with one thing broken.

Two narrowings of the schema are drawn from, both subsets of it: `published`, whatever a client may send, with fields that
nobody knows; and `served`, without what a text server refuses by name, so that most of it is answered.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode

from radixmill.front.api.reference import PAGES
from tests.front.openapi import REF, reachable, schemas

Kind = Literal["served", "published", "invalid", "broken", "plain"]
Node = dict[str, Any]


class Wish(NamedTuple):
    """One request. `field`: the only one that can be at fault, with those it is read with; None says nothing."""

    method: str
    path: str
    body: Any  # JSON, or the bytes themselves
    kind: Kind
    field: str | None = None


BODIES = {
    "/v1/chat/completions": "CreateChatCompletionRequest",
    "/v1/completions": "CreateCompletionRequest",
    "/v1/responses": "CreateResponse",
    "/v1/responses/input_tokens": "TokenCountsBody",
}
SHARES = dict(zip(BODIES, (0.35, 0.25, 0.3, 0.1), strict=True))
REFUSED = {page.path: frozenset(page.refused) for page in PAGES}

NOTES = frozenset({"description", "title", "default", "example", "examples", "deprecated", "discriminator"})
TOKEN = {"type": "integer", "minimum": 0, "maximum": 255}
JSON_SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["n"]},
    {"type": "object", "properties": {"kind": {"enum": ["x", "y"]}}, "required": ["kind"]},
    {"type": "object", "properties": {}},
]


def _or_null(schema: Node) -> Node:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(*names: str) -> Node:
    return {"oneOf": [{"$ref": REF + name} for name in names]}


# Fields narrowed to what a small model with a small context can do in a moment.
SMALL: Node = {
    "model": {"enum": ["echo", "echo-alias"]},
    "n": _or_null({"type": "integer", "minimum": 1, "maximum": 3}),
    "best_of": _or_null({"type": "integer", "minimum": 1, "maximum": 4}),
    "max_tokens": _or_null({"type": "integer", "minimum": 1, "maximum": 40}),
    "max_output_tokens": _or_null({"type": "integer", "minimum": 16, "maximum": 40}),
    "max_completion_tokens": _or_null({"type": "integer", "minimum": 1, "maximum": 40}),
    "seed": _or_null({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}),
    "logit_bias": _or_null(
        {
            "type": "object",
            "propertyNames": {"enum": ["0", "7", "65", "255"]},
            "additionalProperties": {"type": "integer", "minimum": -100, "maximum": 100},
        }
    ),
    "stop": _or_null(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 5},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 4},
            ]
        }
    ),
    "prompt": {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": 30},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 3},
            {"type": "array", "items": TOKEN, "minItems": 1, "maxItems": 5},
            {"type": "array", "items": {"type": "array", "items": TOKEN, "minItems": 1}, "minItems": 1, "maxItems": 3},
        ]
    },
    "messages": {
        "type": "array",
        "items": {"$ref": REF + "ChatCompletionRequestMessage"},
        "minItems": 1,
        "maxItems": 3,
    },
}
# Unions without the members that only other modalities and hosted tools have.
TEXT_ONLY: Node = {
    "ChatCompletionRequestUserMessageContentPart": {"$ref": REF + "ChatCompletionRequestMessageContentPartText"},
    "FunctionParameters": {"enum": JSON_SCHEMAS},
    "InputItem": _one_of("EasyInputMessage", "InputMessage", "OutputMessage", "FunctionToolCall", "ReasoningItem"),
    "InputContent": {"$ref": REF + "InputTextContent"},
    "Tool": _one_of("FunctionTool", "CustomToolParam"),
    "ToolChoiceParam": _one_of("ToolChoiceOptions"),
    "ReasoningModeEnum": {"enum": ["standard"]},
    "InputMessageContentList": {"type": "array", "items": {"$ref": REF + "InputContent"}, "minItems": 1},
    "ResponseFormatJsonSchemaSchema": {"enum": JSON_SCHEMAS},
}
DROPPED = {
    "ChatCompletionRequestAssistantMessage": ("audio",),
    "CreateResponse": ("previous_response_id",),  # of a response that is not kept
    "TokenCountsBody": ("previous_response_id",),
    "FunctionToolCall": ("namespace",),
    "FunctionTool": ("output_schema", "defer_loading", "allowed_callers"),
    "CustomToolParam": ("defer_loading", "allowed_callers"),
}
FREE = {"FunctionTool": ("parameters",)}  # JSON Schemas


def narrowed(path: str, *, served: bool) -> Node:
    """The components for bodies of route `path`, all in place of the published ones."""
    name = BODIES[path]
    found = copy.deepcopy(schemas())
    body = flat(name)
    for field in [*body["properties"]]:
        if served and field in REFUSED[path]:
            del body["properties"][field]
        elif field in SMALL:
            body["properties"][field] = copy.deepcopy(SMALL[field])
    needed = dict.fromkeys((*body["required"], "model", "input"))
    body["required"] = [field for field in needed if field in body["properties"]]
    found[name] = body
    if served:
        found |= {name: copy.deepcopy(node) for name, node in TEXT_ONLY.items() if name in found}
    found = reachable(found, {name})
    for owner in found if served else ():
        for field in DROPPED.get(owner, ()):
            found[owner]["properties"].pop(field, None)
        found[owner].get("properties", {}).update({field: {"enum": JSON_SCHEMAS} for field in FREE.get(owner, ())})
    open_names = {ref.removeprefix(REF) for node in found.values() for ref in _all_of_refs(node)}
    return {name: tidy(node, closed=served and name not in open_names) for name, node in found.items()}


def flat(name: str) -> Node:
    """An object that is put together by allOf, as one object."""
    whole: Node = {"type": "object", "properties": {}, "required": []}
    for part in _parts({"$ref": REF + name}):
        whole["properties"] |= part.get("properties", {})
        whole["required"] += part.get("required", [])
    return copy.deepcopy(whole)


def _parts(node: Node) -> Iterator[Node]:
    if "$ref" in node:
        yield from _parts(schemas()[node["$ref"].removeprefix(REF)])
    yield node
    for part in node.get("allOf", ()):
        yield from _parts(part)


def _all_of_refs(node: Any) -> Iterator[str]:
    for part in node.get("allOf", ()) if isinstance(node, dict) else ():
        if "$ref" in part:
            yield part["$ref"]
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _all_of_refs(inner)


def tidy(node: Any, *, closed: bool) -> Any:
    """Short strings and lists; with `closed`, no fields but the named ones (except under allOf, where others' stand)."""
    if isinstance(node, list):
        return [tidy(item, closed=closed) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _keyword(key, value, closed) for key, value in node.items() if key not in NOTES}
    if out.get("type") == "string" and "enum" not in out:
        out["maxLength"] = min(out.get("maxLength", 12), 64)
    if out.get("type") == "array":
        out["maxItems"] = min(out.get("maxItems", 2), 4)
    if closed and "properties" in out and "allOf" not in out:
        out.setdefault("additionalProperties", False)
    return out


def _keyword(key: str, value: Any, closed: bool) -> Any:
    if key == "properties":
        return {name: tidy(schema, closed=closed) for name, schema in value.items()}
    return value if key in ("enum", "const", "required") else tidy(value, closed=closed and key != "allOf")


def strategy(path: str, *, served: bool, valid: bool) -> Any:
    """Bodies for route `path` as schemathesis makes them: JSON values, or with valid=False sometimes bytes."""
    content = {"application/json": {"schema": {"$ref": REF + BODIES[path]}}}
    operation = {
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "OK"}},
    }
    document = schemathesis.openapi.from_dict(
        {
            "openapi": "3.1.0",
            "info": {"title": "narrowed", "version": "1"},
            "paths": {"/here": {"post": operation}},
            "components": {"schemas": narrowed(path, served=served)},
        }
    )
    mode = GenerationMode.POSITIVE if valid else GenerationMode.NEGATIVE
    return document["/here"]["POST"].as_strategy(generation_mode=mode).map(lambda case: as_clients_write(case.body))


def as_clients_write(value: Any) -> Any:
    """3.0 is an integer to JSON Schema; no client writes one so, and this server refuses it."""
    if isinstance(value, dict):
        return {key: as_clients_write(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_clients_write(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def drawn(strategy: Any, count: int, at: int) -> list[Any]:
    """`count` examples; the same ones for the same `at`."""
    found: list[Any] = []

    @seed(at)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(body: Any) -> None:
        found.append(body)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collect()
    return found[:count]


ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    129,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**40,
    -(10**40),
    1.5,
    1e308,
    5e-324,
    "",
    "x",
    "\ud800",
    "a" * 5000,
    "2",
    [],
    [None],
    ["a"] * 40,
    [[[]]],
    {},
    {"a": 1},
    {"type": "text"},
    {"type": "wizard"},
)


def broken(body: Node, rng: random.Random) -> tuple[Node, str]:
    """A body with one thing changed at some depth, and the top-level field it stands in."""
    changed = copy.deepcopy(body)
    field = rng.choice([*changed] or ["model"])
    changed.setdefault(field, None)
    place: Any = changed
    key: Any = field
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
        place = place[key]
        key = rng.choice([*place]) if isinstance(place, dict) else rng.randrange(len(place))
    match rng.random():
        case chance if chance < 0.15 and isinstance(place, dict):
            del place[key]
        case chance if chance < 0.2 and isinstance(place[key], dict):
            place[key][rng.choice(["nobody_knows", "__proto__", "x y"])] = rng.choice(ODD)
        case _:
            place[key] = rng.choice(ODD)
    return changed, field
