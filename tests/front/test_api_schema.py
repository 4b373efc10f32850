"""Answers and chunks against OpenAI's published schema."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema
import pytest
import yaml

from tests.data import shared
from tests.fakes import EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, answer, call, chunks, error, make_app, post, says

# Where the published schema contradicts what OpenAI's own servers send; each is patched, and used by a test below.
FAULTS = (
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
        {"anyOf": [{"$ref": "#/components/schemas/CompletionUsage"}, {"type": "null"}]},
    ),
)


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with shared("openai", "openapi.yaml").open(encoding="utf-8") as file:
        whole = yaml.load(file, loader)
    wanted = {"components": {"schemas": nullable(whole["components"]["schemas"])}}
    for name, path, patch in FAULTS:
        place = wanted["components"]["schemas"][name]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = patch
    return wanted


def nullable(node: Any) -> Any:
    """3.0's `nullable: true` as 3.1's union with null."""
    if isinstance(node, list):
        return [nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: nullable(value) for key, value in node.items() if not (key == "nullable" and value is True)}
    return {"anyOf": [inner, {"type": "null"}]} if node.get("nullable") is True else inner


def conforms(name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", **document()}
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(value), key=str)
    assert not errors, f"{errors[0].json_path}: {errors[0].message}"


CHAT_BODIES = [
    {},
    {"logprobs": True, "top_logprobs": 3, "n": 2},
    {"stop": "l", "seed": 3, "service_tier": "auto", "metadata": {"a": "b"}, "user": "u"},
    {"max_tokens": 2, "logprobs": True},
    {"return_token_ids": True},
]
TEXT_BODIES = [
    {"prompt": "a"},
    {"prompt": ["a", "b"], "n": 2, "logprobs": 2},
    {"prompt": [1, 2], "max_tokens": 0},
    {"prompt": [[1], [2]], "stop": ["l"], "logprobs": 0},
    {"prompt": "a", "n": 1, "best_of": 2},
]


@pytest.mark.parametrize("body", CHAT_BODIES, ids=str)
def test_chat(body):
    body = {"model": "echo", **HELLO, **body}
    conforms("CreateChatCompletionRequest", body)
    app = make_app(EchoClient(says("héllo 😀")))
    conforms("CreateChatCompletionResponse", answer(app, CHAT, body))
    for part in chunks(app, CHAT, {**body, "stream_options": {"include_usage": True}}):
        conforms("CreateChatCompletionStreamResponse", part)


@pytest.mark.parametrize("body", TEXT_BODIES, ids=str)
def test_text(body):
    body = {"model": "echo", **body}
    conforms("CreateCompletionRequest", body)
    app = make_app(EchoClient(says("héllo 😀")))
    conforms("CreateCompletionResponse", answer(app, TEXT, body))
    if "best_of" not in body:
        for part in chunks(app, TEXT, {**body, "stream_options": {"include_usage": True}}):
            conforms("CreateCompletionResponse", part)


def test_models_and_errors():
    app = make_app()
    conforms("ListModelsResponse", call(app, "GET", "/v1/models").json())
    conforms("Model", call(app, "GET", "/v1/models/echo").json())
    for response, status in (
        (post(app, CHAT, {}), 400),
        (call(app, "GET", "/nope"), 404),
        (call(make_app(api_key=("k",)), "GET", "/v1/models"), 401),
    ):
        error(response, status)
        conforms("ErrorResponse", response.json())


def test_the_check_can_fail():
    good = answer(make_app(), CHAT, HELLO)
    for break_it in (
        lambda r: r.pop("id"),
        lambda r: r["choices"][0].update(finish_reason="done"),
        lambda r: r["choices"][0]["message"].pop("refusal"),
    ):
        bad = answer(make_app(), CHAT, HELLO)
        break_it(bad)
        with pytest.raises(AssertionError):
            conforms("CreateChatCompletionResponse", bad)
    conforms("CreateChatCompletionResponse", good)


def test_every_field_of_the_published_requests_is_known():
    """Known: honoured, a hint, or refused by name. None is merely ignored."""
    from radixmill.front.api.openai.chat import ChatBody
    from radixmill.front.api.openai.completions import CompletionBody

    for name, kind in (("CreateChatCompletionRequest", ChatBody), ("CreateCompletionRequest", CompletionBody)):
        assert set(properties(name)) <= set(kind.__struct_fields__)


def properties(name: str) -> set[str]:
    node = document()["components"]["schemas"][name]
    own = set(node.get("properties", ()))
    for part in node.get("allOf", ()):
        own |= properties(part["$ref"].rsplit("/", 1)[1]) if "$ref" in part else set(part.get("properties", ()))
    return own
