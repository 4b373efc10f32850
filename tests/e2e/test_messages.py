"""Anthropic's official client on the embedded model."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.e2e.kit import Server
from tests.front.anthropic_kit import official

pytestmark = pytest.mark.weights

QUESTION: dict[str, Any] = {
    "model": "default",
    "max_tokens": 32,
    "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    "extra_body": {"temperature": 0, "seed": 1},
}


@pytest.fixture(scope="module")
def client(smollm2_server: Server) -> anthropic.Anthropic:
    return official(smollm2_server.url)


def said(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert isinstance(block, anthropic.types.TextBlock)
    return block.text


def test_it_answers_and_streams_the_same(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**QUESTION)
    assert "Paris" in said(whole) and whole.stop_reason == "end_turn"
    with client.messages.stream(**QUESTION) as stream:
        pieces = list(stream.text_stream)
        gathered = stream.get_final_message()
    assert len(pieces) > 5 and "".join(pieces) == said(whole)
    assert (gathered.stop_reason, gathered.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_counts_are_those_of_the_prompt(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**QUESTION, system="You are brief.")
    count = client.messages.count_tokens(model="default", messages=QUESTION["messages"], system="You are brief.")
    assert count.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    again = client.messages.create(**QUESTION, system="You are brief.")
    assert again.usage.input_tokens < count.input_tokens and again.usage.cache_read_input_tokens
    assert said(again) == said(message)


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**QUESTION, stop_sequences=["Paris", "London"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in said(message)


def test_an_answer_begun_is_gone_on_with(client: anthropic.Anthropic) -> None:
    whole = said(client.messages.create(**QUESTION))
    begun = whole[: whole.index("France")]
    turn = {"role": "assistant", "content": begun.rstrip()}
    rest = said(client.messages.create(**{**QUESTION, "messages": [*QUESTION["messages"], turn]}))
    assert begun.rstrip() + rest == whole


def test_errors(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"max_tokens: .*maximum context length"):
        client.messages.create(**{**QUESTION, "max_tokens": 10**6})
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.messages.create(**{**QUESTION, "model": "nobody"})
