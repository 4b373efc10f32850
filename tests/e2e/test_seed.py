"""`seed`: same request, same bytes: alone, among others, streamed or not, after a restart."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import Server, serving, stream, streams

pytestmark = pytest.mark.weights

ASKED = {"prompt": "Once upon a time there was a mill by the river, and", "max_tokens": 24, "temperature": 1.2}


def others(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Story number {n}. It was", "max_tokens": 20 + n % 9, "temperature": 1.0, "seed": n}
        for n in range(count)
    ]


def whole(server: Server, seed: int) -> tuple[str, str]:
    body = server.post("/v1/completions", model="default", seed=seed, **ASKED).json()
    assert body["seed"] == seed
    return body["choices"][0]["text"], body["choices"][0]["finish_reason"]


async def among(server: Server, seed: int) -> tuple[str, str]:
    mine, *_ = await streams(server.url, [{**ASKED, "seed": seed}, *others(32)])
    return mine["text"][0], mine["finish"][0]


def test_the_same_seed_gives_the_same_bytes(smollm2_server: Server, smollm2: Path, tmp_path: Path) -> None:
    seeds = (0, 7, -3, 2**63 - 1)
    alone = {seed: whole(smollm2_server, seed) for seed in seeds}
    assert len(set(alone.values())) == len(seeds), "different seeds, different bytes"
    for seed in seeds:
        assert asyncio.run(among(smollm2_server, seed)) == alone[seed]
        folded = asyncio.run(stream(smollm2_server.url, {**ASKED, "seed": seed}))
        assert (folded["text"][0], folded["finish"][0]) == alone[seed]
    with serving("smollm2-135m-instruct", folder=tmp_path) as again:
        assert {seed: whole(again, seed) for seed in seeds} == alone


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
PERSON = {
    "messages": [{"role": "user", "content": "Describe a miller as JSON."}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
    "max_tokens": 60,
    "temperature": 1.2,
    "n": 2,
    "seed": 11,
}
CHAT = "/v1/chat/completions"


def test_the_same_seed_gives_the_same_bytes_under_a_schema(smollm2_server: Server) -> None:
    choices = smollm2_server.post(CHAT, model="default", **PERSON).json()["choices"]
    alone = [choice["message"]["content"] for choice in choices]
    assert alone[0] != alone[1]
    for text, choice in zip(alone, choices, strict=True):
        assert choice["finish_reason"] == "length" or json.loads(text).keys() == {"name", "age"}
    assert asyncio.run(people(smollm2_server, 0)) == alone
    assert asyncio.run(people(smollm2_server, 16)) == alone


async def people(server: Server, count: int) -> list[str]:
    """The streamed choices, among others."""
    crowd = (stream(server.url, body) for body in others(count))
    mine, *_ = await asyncio.gather(stream(server.url, PERSON, route=CHAT), *crowd)
    return [mine["text"][0], mine["text"][1]]


def test_a_drawn_seed_is_returned_and_repeats_the_answer(smollm2_server: Server) -> None:
    first = smollm2_server.post("/v1/completions", model="default", **ASKED).json()
    assert whole(smollm2_server, first["seed"])[0] == first["choices"][0]["text"]


def test_eight_choices_of_a_long_prompt_compute_it_once(smollm2_server: Server) -> None:
    """By usage and by the device's own count of tokens."""
    prompt = " ".join(f"word{n % 37}" for n in range(400))
    tokens = smollm2_server.post("/tokenize", prompt=prompt).json()["tokens"][:900]
    assert len(tokens) == 900
    smollm2_server.post("/flush_cache")
    before = device_tokens(smollm2_server)
    body = smollm2_server.post(
        "/v1/completions", model="default", prompt=tokens, n=8, max_tokens=10, seed=1, ignore_eos=True
    ).json()
    assert body["usage"]["prompt_tokens"] == 900 and body["usage"]["completion_tokens"] == 80
    # The last prompt token is computed by each choice for its own first draw; a choice may come a page too early.
    assert 900 <= device_tokens(smollm2_server) - before <= 900 + 8 * (10 + 64)


def test_eight_choices_take_less_time_than_four_prompts(smollm2_server: Server) -> None:
    prompt = " ".join(f"word{n % 41}" for n in range(400))
    one, eight = (statistics.median(seconds(smollm2_server, prompt, n) for _ in range(3)) for n in (1, 8))
    assert eight < 4 * one


def seconds(server: Server, prompt: str, n: int) -> float:
    server.post("/flush_cache")
    start = time.perf_counter()
    body = server.post("/v1/completions", model="default", prompt=prompt, n=n, max_tokens=2, seed=1).json()
    taken = time.perf_counter() - start
    assert body["usage"]["prompt_tokens"] > 800 and len(body["choices"]) == n, "counted once"
    assert body["usage"]["prompt_tokens"] < 2000
    return taken


def device_tokens(server: Server) -> int:
    return int(server.get("/server_info").json()["internal_states"][0]["device_tokens"])
