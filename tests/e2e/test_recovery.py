"""Engines are killed; streams go on with the same bytes."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.kit import Server, fold_chunk, same, serving, stream, streams


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny, "--load-format", "dummy", folder=tmp_path_factory.mktemp("chaos")) as started:
        yield started


def body(seed: int, tokens: int, **more: Any) -> dict[str, Any]:
    prompt = f"Once there were {seed} mills by the river, " * (1 + seed % 7)
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0.9,
        "seed": seed,
        "logprobs": 2,
        "ignore_eos": True,
        **more,
    }


async def killed_at(server: Server, request: dict[str, Any], tokens: set[int]) -> tuple[dict[str, Any], int]:
    """The fold of a stream whose engine is killed each time when so many tokens have come."""
    folded: dict[str, Any] = {"text": {}, "finish": {}, "usage": None, "tokens": {}, "logprobs": {}}
    wish = {
        "model": "default",
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **request,
    }
    kills = 0
    async with (
        httpx.AsyncClient(timeout=120, trust_env=False) as client,
        client.stream("POST", f"{server.url}/v1/completions", json=wish) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            fold_chunk(folded, json.loads(line[6:]))
            if len(folded["tokens"].get(0, [])) in tokens and not folded["finish"]:
                tokens = tokens - {len(folded["tokens"][0])}
                kills += server.kill()
    return folded, kills


@pytest.mark.slow
def test_killed_at_every_token_index(server: Server) -> None:
    request = body(5, 150)  # far longer than the last index: the signal comes while the engine is at work
    undisturbed = asyncio.run(stream(server.url, request))
    kills = 0
    for index in range(1, 36):
        folded, killed = asyncio.run(killed_at(server, request, {index}))
        assert same(folded, undisturbed), f"killed after token {index}"
        kills += killed
    assert kills >= 15  # a busy machine may finish a stream before the signal comes; test_recovery_exact.py is exact


def test_killed_several_times_in_one_stream(server: Server) -> None:
    request = body(
        11, 300, n=3, frequency_penalty=0.5, presence_penalty=0.3, repetition_penalty=1.1, logit_bias={"20": 3}
    )
    undisturbed = asyncio.run(stream(server.url, request))
    folded, kills = asyncio.run(killed_at(server, request, {1, 40, 41, 120, 200}))
    assert kills >= 2 and same(folded, undisturbed)


@pytest.mark.slow
def test_random_kills_under_sixteen_streams(server: Server, request: pytest.FixtureRequest) -> None:
    seconds = request.config.getoption("--chaos") or 12
    rng = random.Random(7)
    bodies = [body(seed, rng.randint(20, 120), n=1 + seed % 2) for seed in range(16)]
    undisturbed = [asyncio.run(stream(server.url, each)) for each in bodies]

    chunks = 0

    def on_chunk() -> None:
        nonlocal chunks
        chunks += 1

    async def storm() -> int:
        kills, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            running = asyncio.gather(*(stream(server.url, each, on_chunk=on_chunk) for each in bodies))
            while not running.done():
                before = chunks
                await asyncio.sleep(rng.uniform(0.01, 0.6))
                if chunks > before and not running.done():  # an engine that never comes up is another test
                    kills += server.kill()
            for calm, disturbed in zip(undisturbed, await running, strict=True):
                assert same(disturbed, calm)
        return kills

    assert asyncio.run(storm()) >= 3


def test_a_non_streaming_request_survives_too(server: Server) -> None:
    request = body(3, 200)
    undisturbed = server.post("/v1/completions", model="default", **request).json()

    async def disturbed() -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
            call = asyncio.create_task(
                client.post(f"{server.url}/v1/completions", json={"model": "default", **request})
            )
            await asyncio.sleep(0.05)
            server.kill()
            result: dict[str, Any] = (await call).json()
            return result

    after = asyncio.run(disturbed())
    assert after["choices"] == undisturbed["choices"]
    assert after["usage"]["completion_tokens"] == undisturbed["usage"]["completion_tokens"]


def test_a_front_that_dies_is_replaced_and_the_engine_forgets_its_work(server: Server) -> None:
    asyncio.run(streams(server.url, [body(1, 8)]))
    (engine,) = server.pids("engine")
    assert server.kill("front")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if server.get("/ready").status_code == 200:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    assert asyncio.run(stream(server.url, body(1, 8)))["finish"] == {0: "length"}
    assert server.pids("engine") == [engine]


def test_the_health_routes_tell_the_truth_around_a_death(server: Server) -> None:
    assert server.get("/ready").status_code == 200
    assert server.get("/health").status_code == 200
    server.kill()
    assert asyncio.run(stream(server.url, body(2, 4)))["finish"] == {0: "length"}
    assert server.get("/ready").status_code == 200
