"""Thinking budgets on the real model: kept to the token, with a grammar behind, and over deaths of the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.kit import Server, same, serving, stream

pytestmark = pytest.mark.weights

CHAT = "/v1/chat/completions"
# The model has never heard of thoughts; a template that opens them makes it think until its budget ends.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is not false %}<think>\n{% endif %}{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 12}},
    "required": ["answer"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("thinking")
    (folder / "thinks.jinja").write_text(TEMPLATE)
    flags = ("--chat-template", str(folder / "thinks.jinja"), "--reasoning-parser", "qwen3")
    with serving("smollm2-135m-instruct", *flags, folder=folder) as made:
        yield made


def ask(budget: int, seed: int = 3, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    return {"messages": messages, "max_thinking_tokens": budget, "seed": seed, "max_tokens": budget + 40, **more}


def run(server: Server, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    return asyncio.run(stream(server.url, body, route=CHAT, **more))


def tag(server: Server) -> list[int]:
    body = {"prompt": "</think>", "add_special_tokens": False}
    return list(server.post("/tokenize", **body).json()["tokens"])


@pytest.mark.parametrize("budget", [0, 1, 7, 30])
@pytest.mark.parametrize("bound", [False, True])
def test_a_budget_is_kept_to_the_token(server: Server, budget: int, bound: bool) -> None:
    close = tag(server)
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    more: dict[str, Any] = {"response_format": format, "max_tokens": 200} if bound else {"ignore_eos": True}
    said = run(server, ask(budget, **more))
    assert len(close) > 1, "a tag of several tokens"
    assert said["tokens"][0][budget : budget + len(close)] == close
    assert said["usage"]["completion_tokens_details"]["reasoning_tokens"] == budget + len(close)
    whole = server.post(CHAT, model="default", **ask(budget, **more)).json()
    message = whole["choices"][0]["message"]
    assert message["content"] == said["text"][0] and "</think>" not in message.get("reasoning_content", "")
    if bound:
        jsonschema.validate(json.loads(message["content"]), SCHEMA)


@pytest.mark.parametrize("bound", [False, True])
def test_the_engine_may_be_killed_before_within_and_behind_the_tag(server: Server, bound: bool) -> None:
    more: dict[str, Any] = {"regex": "(sky|sea) is (blue|grey)", "n": 2} if bound else {"ignore_eos": True, "n": 2}
    body = ask(12, **more, logprobs=True)  # each token has a step and a chunk of its own
    undisturbed = run(server, body)
    assert all(tokens[12 : 12 + len(tag(server))] == tag(server) for tokens in undisturbed["tokens"].values())
    for victim in (2, 21, 24, 27, 30, 34):
        seen = killed = 0

        def count(victim: int = victim) -> None:
            nonlocal seen, killed
            seen += 1
            if seen == victim:
                killed = server.kill()

        disturbed = run(server, body, on_chunk=count)
        assert killed and same(disturbed, undisturbed) and disturbed["thoughts"] == undisturbed["thoughts"]


def test_forced_tokens_say_how_likely_the_model_found_them(server: Server) -> None:
    """And take a forward pass then; else none. The tokens are the same."""
    body = ask(5, ignore_eos=True)
    before = steps(server)
    plain = run(server, body)
    between = steps(server)
    told = server.post(CHAT, model="default", **body, logprobs=True, top_logprobs=1, return_token_ids=True).json()
    close = len(tag(server))
    assert told["choices"][0]["token_ids"] == plain["tokens"][0]
    assert steps(server) - between - (between - before) == close
    forced = told["choices"][0]["logprobs"]["content"][5 : 5 + close]
    assert next(entry["logprob"] < -5.0 for entry in forced), "nothing that it would have said"
    assert all(entry["top_logprobs"][0]["logprob"] >= entry["logprob"] for entry in forced)


def test_thoughts_that_are_off_have_no_budget(server: Server) -> None:
    said = run(server, ask(0, reasoning_effort="none", max_tokens=9))
    assert said["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    assert said["tokens"][0][: len(tag(server))] != tag(server)


def steps(server: Server) -> int:
    """Forward passes, had no guess saved one."""
    state = server.get("/server_info").json()["internal_states"][0]
    return int(state["device_steps"] + state["accepted"])
