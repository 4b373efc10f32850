"""Hostile and mistaken requests while others stream: each is answered properly, and no stream changes by a byte."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.e2e.kit import Server, same, stream, streams
from tests.e2e.test_supervisor import wait_until

BODIES = [
    {
        "prompt": f"Stream number {i}: " * (i + 1),
        "max_tokens": 150,
        "seed": i,
        "temperature": 0.8,
        "ignore_eos": True,
        "logprobs": 1,
    }
    for i in range(8)
]

BAD: list[tuple[str, Any, int, str | None]] = [
    ("/v1/completions", {"prompt": "x" * 5000, "max_tokens": 5}, 400, "prompt"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 100_000}, 400, "max_tokens"),
    ("/v1/completions", {"prompt": "x", "max_tokens": -1}, 400, "max_tokens"),
    ("/v1/completions", {"prompt": "x", "temperature": 9}, 400, "temperature"),
    ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 400, "temperature"),
    ("/v1/completions", {"prompt": "x", "top_p": -0.1}, 400, "top_p"),
    ("/v1/completions", {"prompt": "x", "n": 1000}, 400, "n"),
    ("/v1/completions", {"prompt": "x", "stop": ["a"] * 33}, 400, "stop"),
    ("/v1/completions", {"prompt": "x", "logit_bias": {"99999": 1}}, 400, "logit_bias"),
    ("/v1/completions", {"prompt": [1, 2, 99999]}, 400, "prompt"),
    ("/v1/completions", {"prompt": [-1]}, 400, "prompt"),
    ("/v1/completions", {}, 400, "prompt"),
    ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages"),
    ("/v1/chat/completions", {"messages": "hello"}, 400, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3}, 400, "top_logprobs"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "model": "gpt-5"}, 404, "model"),
]


async def mischief(url: str) -> None:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        for _ in range(3):
            for route, body, status, param in BAD:
                answer = await client.post(url + route, json={"model": "default", **body})
                assert answer.status_code == status, (body, answer.text)
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error" and error["message"]
                assert error["param"] == param or str(error["param"]).startswith((f"{param}[", f"{param}.")), (
                    body,
                    error,
                )
            for raw in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"prompt": NaN}', b'"x"', b"null"):
                answer = await client.post(
                    url + "/v1/completions", content=raw, headers={"content-type": "application/json"}
                )
                assert answer.status_code == 400 and "error" in answer.json(), raw[:20]
            await vanish(url)


async def vanish(url: str) -> None:
    """A client that goes away in the middle of its stream, and one in the middle of its body."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        wish = {"model": "default", "prompt": "gone soon", "max_tokens": 3000, "stream": True, "ignore_eos": True}
        async with client.stream("POST", url + "/v1/completions", json=wish) as answer:
            async for _ in answer.aiter_lines():
                break
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")


def test_bad_requests_disturb_nobody(tiny_server: Server) -> None:
    undisturbed = [asyncio.run(stream(tiny_server.url, body)) for body in BODIES]

    async def together() -> list[dict[str, Any]]:
        running = asyncio.create_task(streams(tiny_server.url, BODIES))
        await mischief(tiny_server.url)
        return await running

    for before, after in zip(undisturbed, asyncio.run(together()), strict=True):
        assert same(before, after)


def test_context_overflow_names_both_numbers(tiny_server: Server) -> None:
    error = tiny_server.post("/v1/completions", model="default", prompt="x" * 5000, max_tokens=5).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "5000" in error["message"] and "4096" in error["message"]


def test_a_client_that_goes_away_stops_its_generation(tiny_server: Server) -> None:
    async def leave(streaming: bool) -> None:
        wish = {"model": "default", "prompt": "endless", "max_tokens": 4000, "stream": streaming, "ignore_eos": True}
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            task = asyncio.create_task(client.post(tiny_server.url + "/v1/completions", json=wish))
            while not task.done() and state(tiny_server)["running"] == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    wait_until(lambda: state(tiny_server)["running"] == 0)  # of those who left before
    for streaming in (True, False):
        before = state(tiny_server)["device_steps"]
        asyncio.run(leave(streaming))
        wait_until(lambda: state(tiny_server)["running"] == 0)
        assert state(tiny_server)["device_steps"] - before < 3900, "it was generated to its end"


def state(server: Server) -> dict[str, Any]:
    """The engine's numbers; asked for again where a busy machine keeps it from answering in time."""
    states: list[dict[str, Any]] = []
    wait_until(lambda: states.extend(server.get("/server_info").json()["internal_states"]) or states)
    return states[0]


def test_the_error_shape_of_unknown_routes_and_methods(tiny_server: Server) -> None:
    assert tiny_server.get("/nowhere").json()["error"]["type"] == "invalid_request_error"
    wrong = tiny_server.get("/v1/completions")
    assert wrong.status_code == 405 and json.loads(wrong.text)["error"]["message"]
