"""What a client controls has an end. The limits of fields are in the table, see test_api_bad_input; here are the others."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from radixmill.core.config import Config, ServerOptions, walk
from radixmill.front.api.connections import Limits
from radixmill.front.api.health import MAX_PROBES
from radixmill.front.session import Session
from radixmill.front.session.door import Bounds
from radixmill.front.session.limits import CHARS_PER_TOKEN, SIZES
from tests.fakes import SPEC, ByteText, EchoClient
from tests.front.kit import CHAT, TEXT, error, install, make_app, make_front, post


def front_over(**options):
    app, front = make_front()
    client = EchoClient()
    front.client, front.session = client, Session(ByteText(), client, ("echo",), **options)
    return app, client


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_has_at_most_so_many_tokens(stream):
    app, client = front_over(limits=Bounds(prompt=20))
    for path, body, param in (
        (TEXT, {"prompt": "x" * 21}, "prompt"),
        (TEXT, {"prompt": ["x", "x" * 21]}, "prompt"),
        (TEXT, {"prompt": [5] * 21}, "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 20}]}, "messages"),
        ("/generate", {"text": "x" * 21}, "text"),
        ("/v1/responses", {"input": "x" * 21}, "input"),
    ):
        fault = error(post(app, path, {**body, "stream": stream}), 400)
        assert fault["code"] == "context_length_exceeded" and fault["param"] == param
        assert re.search("at most 20 tokens here, but it has 2[123]", fault["message"])
    assert not client.requests
    assert post(app, TEXT, {"prompt": "x" * 20, "max_tokens": 1}).status_code == 200


def test_token_ids_that_cannot_fit_are_not_even_looked_at():
    app, front = make_front()
    client = EchoClient()
    install(front, client, ByteText())
    ids = [10**9] * (SPEC.context + 1)  # none is the vocabulary's
    for path, body in ((TEXT, {"prompt": ids}), ("/generate", {"input_ids": ids})):
        assert error(post(app, path, body), 400)["code"] == "context_length_exceeded"


def test_where_unknown_text_may_be_one_token_nothing_is_refused_by_its_length():
    """And what a template may leave out, the model's own words or what is no text, is not counted."""
    long = "x" * (CHARS_PER_TOKEN * (SPEC.context + 1))

    class Fusing(ByteText):
        chars_per_token = None

        def encode(self, text, **how):
            return [0]

        def encode_chat(self, chat):
            return [0]

    app, front = make_front()
    install(front, EchoClient(), Fusing())
    assert post(app, TEXT, {"prompt": long, "max_tokens": 1}).status_code == 200

    class Forgetful(ByteText):
        def encode_chat(self, chat):
            return [0]

    install(front, EchoClient(), Forgetful())
    turns = [("user", "a"), ("assistant", long), ("user", "b")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert post(app, CHAT, {"messages": messages, "max_tokens": 1}).status_code == 200


def test_a_text_that_cannot_fit_is_not_even_tokenised():
    class Counting(ByteText):
        encoded = 0

        def encode(self, text, **how):
            self.encoded += len(text)
            return super().encode(text, **how)

    app, front = make_front()
    install(front, client := EchoClient(), text := Counting())
    long = "x" * (CHARS_PER_TOKEN * (SPEC.context + 1))
    for path, body in ((TEXT, {"prompt": long}), (TEXT, {"prompt": ["a", long]}), ("/generate", {"text": long})):
        fault = error(post(app, path, body), 400)
        assert fault["code"] == "context_length_exceeded" and f"at least {SPEC.context + 1}" in fault["message"]
    assert not text.encoded and not client.requests
    chat = {"messages": [{"role": "user", "content": long}]}
    assert error(post(app, CHAT, chat), 400)["code"] == "context_length_exceeded" and not text.chats


def test_a_grammar_is_not_sent_on_beyond_its_size():
    asked = []
    app, front = make_front()
    install(front, EchoClient(refuse=lambda kind, text: asked.append(kind) or {}))
    most = int(SIZES["constraint"].high)
    for name in ("regex", "ebnf"):
        fault = error(post(app, CHAT, {"messages": [{"role": "user", "content": "x"}], name: "a" * (most + 1)}), 400)
        assert fault["param"] == name and str(most) in fault["message"]
    schema = {"type": "object", "description": "a" * most}
    fault = error(post(app, "/generate", {"text": "x", "sampling_params": {"json_schema": schema}}), 400)
    assert "characters" in fault["message"] and not asked


def test_every_limit_of_the_protocol_is_a_flag():
    """So that a new one is not forgotten."""
    limits = Limits.of(ServerOptions())
    assert len(set(limits)) > 5 and all(value > 0 for value in limits)
    flags = {path[-1] for path, _, _ in walk(Config)}
    assert {
        "max_body_bytes", "max_header_bytes", "max_headers", "max_url_bytes", "header_timeout", "body_timeout", "body_rate",
        "keep_alive_timeout", "write_timeout", "max_connections", "max_connections_per_address", "max_requests_per_key",
        "max_prompt_tokens", "max_queued_requests",
    } <= flags  # fmt: skip
    for name, changed in {"max_headers": 9, "header_timeout": 1.5, "max_connections": 7}.items():
        assert changed in Limits.of(ServerOptions(**{name: changed}))


def test_requests_bring_no_templates():
    """A template is a program; only the server's own is run, unless the server is told to trust."""
    app, front = make_front()
    install(front, client := EchoClient())
    turn = {"messages": [{"role": "user", "content": "x"}]}
    anthropic = {**turn, "model": "echo", "max_tokens": 5}
    for path, body in (
        (CHAT, turn),
        ("/tokenize", turn),
        ("/v1/messages", anthropic),
        ("/v1/responses", {"input": "x"}),
    ):
        inner = {**body, "chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}}
        fault = post(app, path, inner).json()["error"]
        assert "--trust-request-chat-template" in fault["message"]
        if path in (CHAT, "/tokenize"):
            assert fault["param"] == "chat_template_kwargs.chat_template"
            fault = error(post(app, path, {**body, "chat_template": "{{ 7 * 7 }}"}), 400)
            assert fault["param"] == "chat_template" and "--trust-request-chat-template" in fault["message"]
    assert not client.requests
    response = post(app, "/v1/messages", {**anthropic, "chat_template": "{{ 7 * 7 }}"})
    assert response.headers["x-radixmill-ignored"] == "chat_template"
    assert [bytes(i for i in request.prompt if i < 256) for request in client.requests] == [b"x"]


def test_probes_without_a_key_are_few():
    async def go() -> list[int]:
        client = EchoClient(gate=asyncio.Event())
        app = make_app(client, api_key=("ann",))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
            probes = [asyncio.ensure_future(http.get("/health_generate")) for _ in range(50)]
            while sum(probe.done() for probe in probes) < 50 - MAX_PROBES:
                await asyncio.sleep(0)
            assert len(client.live) <= MAX_PROBES
            client.gate.set()
            found = sorted([(await probe).status_code for probe in probes])
            assert (await http.get("/health_generate")).status_code == 200
            return found

    assert asyncio.run(go()) == [200] * MAX_PROBES + [429] * (50 - MAX_PROBES)
