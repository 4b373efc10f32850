"""OpenAI's published description as a judge: is this answer, chunk, event or error what the schema says?

Knows paths and schemas; knows nothing of our app. Routes that are not published are left alone. JSON Schema lets be what
we add to published objects; it must be one of EXTENSIONS, and docs/api.md must say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import httpx
import jsonschema_rs
import yaml

from tests.data import ROOT, shared

Schemas = dict[str, Any]
FILE = ("openai", "openapi.yaml")
PREFIX = "/v1"  # the description's paths stand behind it
REF = "#/components/schemas/"
PUBLISHED = re.compile(r"/(chat/completions|completions|responses|models)(/[^?]*)?")

CALLED: Schemas = {"type": "object", "additionalProperties": False}

# Where the published schema contradicts what OpenAI's own servers send, as (schema, path in it, what stands there now).
# Each was met by an answer that is right.
FAULTS: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    # Chunks of a text completion have finish_reason null until the last; the schema has one shape for both and no null.
    (
        "CreateCompletionResponse",
        ("properties", "choices", "items", "properties", "finish_reason"),
        {"enum": ["stop", "length", "content_filter", None]},
    ),
    # With include_usage those chunks have usage null, as the chat chunks do.
    (
        "CreateCompletionResponse",
        ("properties", "usage"),
        {"anyOf": [{"$ref": REF + "CompletionUsage"}, {"type": "null"}]},
    ),
    # The first token of an echoed prompt has no log probability and no alternatives: null in both lists.
    (
        "CreateCompletionResponse",
        ("properties", "choices", "items", "properties", "logprobs", "anyOf", "0", "properties", "token_logprobs"),
        {"type": "array", "items": {"type": ["number", "null"]}},
    ),
    (
        "CreateCompletionResponse",
        ("properties", "choices", "items", "properties", "logprobs", "anyOf", "0", "properties", "top_logprobs"),
        {"type": "array", "items": {"type": ["object", "null"], "additionalProperties": {"type": "number"}}},
    ),
    # The messages of a stored request have every role; the schema takes them for answers, and knows only the assistant's.
    (
        "ChatCompletionMessageList",
        ("properties", "data", "items", "allOf", "0"),
        {
            "type": "object",
            "required": ["role", "content", "refusal"],
            "properties": {
                "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
                "content": {"type": ["string", "null"]},
                "refusal": {"type": ["string", "null"]},
                "name": {"type": "string"},
                "tool_calls": {"$ref": REF + "ChatCompletionMessageToolCalls"},
                "tool_call_id": {"type": "string"},
            },
        },
    ),
    # Answers may call custom tools; the chunks of such answers are not described.
    (
        "ChatCompletionMessageToolCallChunk",
        ("properties", "type"),
        {"enum": ["function", "custom"]},
    ),
    (
        "ChatCompletionMessageToolCallChunk",
        ("properties", "custom"),
        {"type": "object", "properties": {"name": {"type": "string"}, "input": {"type": "string"}}},
    ),
)
# What we add to published answers: SGLang's, vLLM's and our own.
EXTENSIONS = frozenset(
    {
        "bytes",
        "frequency_penalty",
        "matched_stop",
        "max_model_len",
        "max_model_len_reason",
        "parent",
        "presence_penalty",
        "prompt_token_ids",
        "reasoning",
        "reasoning_content",
        "receipt",
        "record",
        "root",
        "seed",
        "store",
        "system_fingerprint",
        "token_ids",
    }
)
MAPS = frozenset(
    {"top_logprobs", "metadata", "schema", "parameters", "tools", "record", "receipt"}
)  # their keys are the client's own, or tokens, or wholly ours
# The description has no shape for these: the chunks of a stream that differ from what it says.
CHUNKS = {"/completions": "CreateCompletionResponse", "/responses/{response_id}": "ResponseStreamEvent"}


class Route(NamedTuple):
    """A published operation: the names of the schemas of its body, its answer and its stream."""

    path: re.Pattern[str]
    method: str
    body: str | None
    answer: str | None
    chunk: str | None


def present() -> bool:
    return ROOT.parent.joinpath("shared", "data", *FILE).exists()


@lru_cache(maxsize=1)
def description() -> dict[str, Any]:
    """The paths and schemas, unions with null written as JSON Schema writes them, its faults mended. Skips if absent."""
    with shared(*FILE).open(encoding="utf-8") as file:
        whole = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    paths = {path: entry for path, entry in whole["paths"].items() if PUBLISHED.fullmatch(path)}
    wanted = reachable(whole["components"]["schemas"], {*refs(paths), REF + "ErrorResponse"})
    return {"paths": paths, "schemas": mended({name: nullable(schema) for name, schema in wanted.items()})}


def schemas() -> Schemas:
    return description()["schemas"]  # type: ignore[no-any-return]


def nullable(node: Any) -> Any:
    """3.0's `nullable: true` as 3.1's union with null."""
    if isinstance(node, list):
        return [nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: nullable(value) for key, value in node.items() if not (key == "nullable" and value is True)}
    return {"anyOf": [inner, {"type": "null"}]} if node.get("nullable") is True else inner


def mended(found: Schemas) -> Schemas:
    for name, path, patch in FAULTS:
        place, last = found[name], path[-1]
        for key in path[:-1]:
            place = place[_key(place, key)]
        had = place.get(last) if isinstance(place, dict) else place[int(last)]
        assert had != patch, f"{name} {path}: no fault any more"
        place[_key(place, last)] = patch
    return found


def _key(place: Any, key: str) -> str | int:
    return int(key) if isinstance(place, list) else key


def refs(node: Any) -> Iterator[str]:
    """Every `$ref` in a schema."""
    if isinstance(node, list):
        for item in node:
            yield from refs(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and str(value).startswith(REF):
                yield value
            elif key != "discriminator":
                yield from refs(value)


def reachable(every: Schemas, wanted: set[str]) -> Schemas:
    found: Schemas = {}
    todo = [ref.removeprefix(REF) for ref in wanted]
    while todo:
        if (name := todo.pop()) not in found:
            found[name] = every[name]
            todo += [ref.removeprefix(REF) for ref in refs(every[name])]
    return found


@lru_cache(maxsize=1)
def routes() -> tuple[Route, ...]:
    found = []
    for path, entry in description()["paths"].items():
        pattern = re.compile(re.escape(PREFIX) + re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
        for method, operation in entry.items():
            if method not in ("parameters", "summary", "description"):
                good = operation["responses"].get("200", {}).get("content", {})
                found.append(
                    Route(
                        pattern,
                        method.upper(),
                        _name(operation.get("requestBody", {}).get("content", {}).get("application/json")),
                        _name(good.get("application/json")),
                        _name(good.get("text/event-stream")) or CHUNKS.get(path),
                    )
                )
    return tuple(found)


def _name(content: Any) -> str | None:
    ref = (content or {}).get("schema", {}).get("$ref", "")
    return ref.removeprefix(REF) or None


def route_of(method: str, path: str) -> Route | None:
    return next((r for r in routes() if r.method == method and r.path.fullmatch(path)), None)


@cache
def validator(name: str) -> Any:
    wanted = reachable(schemas(), {name})
    return jsonschema_rs.validator_for({"$ref": REF + name, "components": {"schemas": wanted}})


def faults(name: str, value: Any) -> list[str]:
    """What of `value` is not as schema `name` says; a union is judged by the member that its `type` names."""
    name = _member(name, value)
    wrong = [f"{name}{_at(error.instance_path)}: {error.message[:300]}" for error in validator(name).iter_errors(value)]
    return wrong + [f"{name}: {key} is neither published nor one of ours" for key in sorted(keys(value) - known(name))]


def keys(value: Any) -> set[str]:
    """The names of all fields of all objects in `value`."""
    if isinstance(value, list):
        return set().union(*(keys(item) for item in value))
    if not isinstance(value, dict):
        return set()
    return {*value}.union(*(keys(item) for key, item in value.items() if key not in MAPS))


@cache
def known(name: str) -> frozenset[str]:
    """The names that fields may have in an answer of schema `name`."""
    return frozenset(_published(reachable(schemas(), {name}))) | EXTENSIONS


def _published(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node.get("properties", ()) if isinstance(node.get("properties"), dict) else ()
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _published(inner)


def _member(name: str, value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return _members(name).get(kind, name) if isinstance(kind, str) else name


@cache
def _members(name: str) -> dict[str, str]:
    """The tag of each member of a union."""
    union = schemas()[name].get("anyOf") or schemas()[name].get("oneOf") or ()
    names = [ref.removeprefix(REF) for part in union for ref in [part.get("$ref", "")] if ref]
    tags = ((name, schemas()[name].get("properties", {}).get("type", {}).get("enum", ())) for name in names)
    return {tag: name for name, values in tags for tag in values}


def _at(path: list[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def conforms(name: str, value: Any) -> None:
    assert not (found := faults(name, value)), "\n".join(found)


def judge(method: str, path: str, response: httpx.Response) -> list[str]:
    """What is wrong with an answer by the published schema; nothing for routes that are not published."""
    if not present() or not (route := route_of(method, path)):
        return []
    if response.status_code >= 400:
        return faults("ErrorResponse", response.json())
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return [fault for chunk in events(response.text) for fault in _judge_chunk(route, chunk)]
    return faults(route.answer, response.json()) if route.answer else []


def _judge_chunk(route: Route, chunk: Any) -> list[str]:
    if set(chunk) == {"error"}:
        return faults("ErrorResponse", chunk)
    return faults(route.chunk, chunk) if route.chunk else [f"{route.path.pattern} does not stream"]


def events(text: str) -> Iterator[Any]:
    """The data of server-sent events, without [DONE]."""
    for block in text.split("\n\n"):
        data = "\n".join(line[6:] for line in block.split("\n") if line.startswith("data: "))
        if data and data != "[DONE]":
            yield json.loads(data)


def properties(name: str) -> frozenset[str]:
    """The names of the fields of an object, through allOf."""
    return frozenset(_properties({"$ref": REF + name}))


@cache
def paths(name: str) -> frozenset[str]:
    """The fields of an object and of what stands in it, as `messages[].content[].text`."""
    return frozenset(_paths({"$ref": REF + name}, "", ()))


def _paths(node: Any, path: str, above: tuple[str, ...]) -> Iterator[str]:
    ref = node.get("$ref", "").removeprefix(REF)
    if ref and ref not in above:
        yield from _paths(schemas()[ref], path, (*above, ref))
    for part in (*node.get("allOf", ()), *node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _paths(part, path, above)
    for key, inner in node.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        yield here
        yield from _paths(inner, here, above)
    if isinstance(node.get("items"), dict):
        yield from _paths(node["items"], path + "[]", above)


def _properties(node: Any) -> Iterator[str]:
    if "$ref" in node:
        yield from _properties(schemas()[node["$ref"].removeprefix(REF)])
    yield from node.get("properties", ())
    for part in node.get("allOf", ()):
        yield from _properties(part)
