"""Answers and chunks against OpenAI's published schema."""

from __future__ import annotations

import pytest

from tests.fakes import EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, answer, call, chunks, error, make_app, post, says
from tests.front.openapi import conforms, faults, properties

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
    assert "return_token_ids" in body or not faults("CreateChatCompletionRequest", body)
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
        assert properties(name) <= set(kind.__struct_fields__)
