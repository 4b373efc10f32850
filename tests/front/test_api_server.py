"""The app behind a real server: clients that leave, official clients, raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.fakes import EOS, EchoClient, Turnstile
from tests.front.kit import CHAT, HELLO, TEXT, make_app, make_front, parse_sse, says, serving, until

LONG = says("x" * 400)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path, body", [(CHAT, {**HELLO, "n": 3}), (TEXT, {"prompt": ["a", "b"], "max_tokens": 300})])
def test_a_client_that_leaves_stops_its_generation(path, body, stream):
    client = EchoClient(LONG, pause=0.1)
    app, front = make_front(client)
    with serving(app) as live:
        with socket.create_connection(("127.0.0.1", live.port)) as raw:
            raw.sendall(request_bytes(path, {**body, "stream": stream}))
            if stream:
                assert raw.recv(20).startswith(b"HTTP/1.1 200")
            else:
                until(lambda: bool(client.live))
        until(lambda: not client.live and not front.session.live)
    assert len(client.cancelled) == (3 if path == CHAT else 2), "every sequence was cancelled"


def test_a_client_that_leaves_before_the_first_token():
    client = EchoClient(LONG, pause=30)
    app, front = make_front(client)
    with serving(app) as live:
        for stream in (False, True):
            with socket.create_connection(("127.0.0.1", live.port)) as raw:
                raw.sendall(request_bytes(CHAT, {**HELLO, "stream": stream}))
                until(lambda: bool(client.live))
            until(lambda: not client.live and not front.session.live)


def test_the_others_do_not_notice():
    client = EchoClient(lambda request, choice: [*b"steady answer", EOS], pause=0.003)
    with serving(make_app(client)) as live, ThreadPoolExecutor(9) as pool:
        streams = [pool.submit(stream_text, live.url) for _ in range(8)]
        for bad in (
            {"messages": 3},
            {**HELLO, "temperature": 9},
            {**HELLO, "model": "no"},
            {**HELLO, "max_tokens": 9999},
        ):
            assert httpx.post(live.url + CHAT, json=bad, trust_env=False).status_code in (400, 404)
            with socket.create_connection(("127.0.0.1", live.port)) as raw:
                raw.sendall(request_bytes(CHAT, {**HELLO, "stream": True}))
        assert [s.result() for s in streams] == ["steady answer"] * 8
        until(lambda: not client.live)


def stream_text(url: str) -> str:
    parts = parse_sse(httpx.post(url + CHAT, json={**HELLO, "stream": True}, timeout=60, trust_env=False).text)
    return "".join(part["choices"][0]["delta"].get("content", "") for part in parts)


def request_bytes(path: str, body: dict) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def test_the_first_token_is_sent_when_it_is_there():
    client = EchoClient(says("ab"), gate=(gate := Turnstile(1)))
    with (
        serving(make_app(client)) as live,
        httpx.stream("POST", live.url + CHAT, json={**HELLO, "stream": True}, timeout=60, trust_env=False) as response,
    ):
        texts = response.iter_text()
        first = next(texts)
        assert '"content":"a"' in first and '"content":"b"' not in first and client.live
        gate.set()
        assert '"content":"b"' in "".join(texts)
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "content-length" not in response.headers


@pytest.mark.parametrize("head", [b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_too_large_is_said_before_all_of_it_is_read(head):
    with (
        serving(make_app(max_body_bytes=10_000)) as live,
        socket.create_connection(("127.0.0.1", live.port), timeout=60) as raw,
    ):
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head + b"\r\n")
        if b"chunked" in head:
            for _ in range(3):
                raw.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")  # never finished
        reply = b""
        while b"request_too_large" not in reply:
            got = raw.recv(4096)
            assert got, reply
            reply += got
        assert reply.startswith(b"HTTP/1.1 413")


def test_the_official_client():
    client = EchoClient(says("Hello there"), cached=1)
    with serving(make_app(client, api_key=("secret",))) as live:
        api = openai.OpenAI(base_url=live.url + "/v1", api_key="secret", max_retries=0)
        chat = api.chat.completions.create(
            model="echo", messages=HELLO["messages"], logprobs=True, top_logprobs=2, n=2, seed=5
        )
        assert [c.message.content for c in chat.choices] == ["Hello there"] * 2 and chat.id.startswith("chatcmpl-")
        assert chat.usage and chat.usage.prompt_tokens_details and chat.usage.prompt_tokens_details.cached_tokens == 1
        assert chat.system_fingerprint == "n-echo" and chat.choices[0].logprobs and chat.choices[0].logprobs.content
        with api.chat.completions.create(
            model="echo", messages=HELLO["messages"], stream=True, stream_options={"include_usage": True}
        ) as stream:
            parts = list(stream)
        assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == "Hello there"
        assert parts[0].choices[0].delta.role == "assistant" and parts[-2].choices[0].finish_reason == "stop"
        assert parts[-1].usage and parts[-1].usage.total_tokens == 4 + 12
        text = api.completions.create(model="echo", prompt=["a", "b"], max_tokens=5, logprobs=1)
        assert [c.text for c in text.choices] == ["Hello", "Hello"] and text.choices[0].logprobs.text_offset == [
            0,
            1,
            2,
            3,
            4,
        ]
        with api.completions.create(model="echo", prompt="a", stream=True, stop=["the"]) as stream:
            assert "".join(p.choices[0].text for p in stream) == "Hello "
        assert [m.id for m in api.models.list()] == ["echo", "echo-alias"]
        assert api.models.retrieve("echo").owned_by == "radixmill"
        raw = api.chat.completions.with_raw_response.create(
            model="echo", messages=HELLO["messages"], extra_body={"rid": "job-1"}
        )
        assert raw.headers["x-request-id"] == "job-1" == raw.parse()._request_id
        with pytest.raises(openai.NotFoundError) as missing:
            api.chat.completions.create(model="gpt-4", messages=HELLO["messages"])
        assert missing.value.code == "model_not_found" and missing.value.param == "model"
        with pytest.raises(openai.BadRequestError) as bad:
            api.chat.completions.create(model="echo", messages=HELLO["messages"], temperature=3)
        assert bad.value.param == "temperature"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=live.url + "/v1", api_key="wrong", max_retries=0).models.list()


def test_the_official_client_hears_of_late_failures():
    client = EchoClient(lambda request, choice: [*b"abc"], broken="failed")
    with serving(make_app(client)) as live:
        api = openai.OpenAI(base_url=live.url + "/v1", api_key="x", max_retries=0)
        with (
            pytest.raises(openai.APIError) as failed,
            api.chat.completions.create(model="echo", messages=HELLO["messages"], stream=True) as stream,
        ):
            list(stream)
        assert failed.value.code == "internal_error"


def test_many_at_once_with_the_async_client():
    client = EchoClient(lambda request, choice: [*request.prompt, EOS], cuts=(3, 1), pause=0.001)

    async def one(api: openai.AsyncOpenAI, i: int) -> str:
        stream = await api.completions.create(model="echo", prompt=f"number {i}", max_tokens=50, stream=True)
        return "".join([part.choices[0].text async for part in stream])

    async def all_of_them(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0) as api:
            return await asyncio.gather(*(one(api, i) for i in range(64)))

    with serving(make_app(client)) as live:
        assert asyncio.run(all_of_them(live.url)) == [f"number {i}" for i in range(64)]
    assert not client.live
