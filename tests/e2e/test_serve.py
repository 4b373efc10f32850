"""The server as its users meet it: the embedded model, official clients, many streams at once, prefix reuse."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.kit import Server, same, serving, stream, streams

pytestmark = pytest.mark.weights

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
WORDS = [
    "the",
    "mill",
    "wheel",
    "turns",
    "slowly",
    "while",
    "water",
    "runs",
    "over",
    "old",
    "stone",
    "and",
    "grain",
    "becomes",
    "flour",
    "for",
    "bread",
    "in",
    "the",
    "village",
]


def openai_client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", http_client=httpx.Client(trust_env=False, timeout=120)
    )


def test_it_is_ready_soon_and_imports_no_torch(smollm2_server: Server) -> None:
    log = smollm2_server.log.read_text()
    assert "The server is fired up and ready to roll!" in log
    assert "pack weights" in log and "tokenizer" in log  # phase by phase
    assert smollm2_server.seconds <= 10, (
        "far beyond any noise of a busy machine; the figure itself stands in docs/performance.md"
    )
    for role in ("engine", "front"):
        (pid,) = smollm2_server.pids(role)
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_the_official_client_chats(smollm2_server: Server) -> None:
    client = openai_client(smollm2_server)
    whole = client.chat.completions.create(model="default", messages=QUESTION, temperature=0, max_tokens=32)
    assert "Paris" in (whole.choices[0].message.content or "")
    assert whole.choices[0].finish_reason == "stop" and whole.id.startswith("chatcmpl-")
    pieces = list(
        client.chat.completions.create(model="default", messages=QUESTION, temperature=0, max_tokens=32, stream=True)
    )
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert len(pieces) > 5
    listed = client.models.list().data[0]
    assert client.models.retrieve(listed.id).id == listed.id


def test_the_official_client_for_node_chats(smollm2_server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    installed = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai"],
        cwd=folder,
        capture_output=True,
        timeout=300,
    )
    if installed.returncode:
        pytest.skip("npm cannot install the package openai here")
    (folder / "chat.mjs").write_text(
        """
        import OpenAI from "openai";
        const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none" });
        const ask = { model: "default", temperature: 0, max_tokens: 32,
                      messages: [{ role: "user", content: "What is the capital of France? Answer in one sentence." }] };
        let streamed = "";
        for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
            streamed += chunk.choices[0]?.delta?.content ?? "";
        const whole = await client.chat.completions.create(ask);
        console.log(JSON.stringify({ streamed, whole: whole.choices[0].message.content }));
        """
    )
    ran = subprocess.run(
        ["node", "chat.mjs", smollm2_server.url], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["streamed"] == said["whole"] and "Paris" in said["whole"]


def mixed_bodies(count: int, rng: random.Random, longest: int) -> list[dict[str, Any]]:
    """Streams of different lengths, half greedy, half seeded."""
    return [
        {
            "prompt": " ".join(rng.choices(WORDS, k=rng.randint(3, 90))),
            "max_tokens": rng.randint(4, longest),
            "temperature": 0 if i % 2 else 0.9,
            "top_p": 0.95,
            "seed": i,
            "logprobs": 2 if i % 3 == 0 else None,
        }
        for i in range(count)
    ]


@pytest.mark.slow
def test_sixty_four_streams_are_the_same_together_and_alone(smollm2_server: Server) -> None:
    bodies = mixed_bodies(64, random.Random(1), 48)
    together = asyncio.run(streams(smollm2_server.url, bodies))
    for body, crowd in zip(bodies, together, strict=True):
        assert same(asyncio.run(stream(smollm2_server.url, body)), crowd)


@pytest.mark.slow
def test_sixty_four_streams_on_the_fallback(tmp_path: Path) -> None:
    bodies = mixed_bodies(64, random.Random(2), 10)
    with serving("smollm2-135m-instruct", "--backend", "reference", folder=tmp_path) as server:
        together = asyncio.run(streams(server.url, bodies))
        for body, crowd in zip(bodies, together, strict=True):
            assert same(asyncio.run(stream(server.url, body)), crowd)


def prefix_of(tokens: int, rng: random.Random, server: Server) -> list[int]:
    text = " ".join(rng.choices(WORDS, k=2 * tokens))
    ids: list[int] = server.post("/tokenize", prompt=text).json()["tokens"]
    return ids[:tokens]


def first_token(server: Server, prompt: list[int]) -> tuple[float, int]:
    """Seconds to the first token, and cached_tokens."""
    began = time.perf_counter()
    answer = server.post("/v1/completions", model="default", prompt=prompt, max_tokens=1, temperature=0).json()
    return time.perf_counter() - began, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_shared_prefix_is_found_whole_and_makes_the_first_token_fast(smollm2_server: Server) -> None:
    rng = random.Random(3)
    ratios = []
    for _ in range(3):
        prefix = prefix_of(1000, rng, smollm2_server)
        cold, cached = first_token(smollm2_server, [*prefix, 100, 101, 102])
        assert cached < 8  # by chance
        warm = []
        for i in range(3):  # the least: a moment's pause of the machine is nothing to a cold one, and much to these
            seconds, cached = first_token(smollm2_server, [*prefix, 200 + i, 201, 202])
            assert cached == 1000  # not rounded to a page
            warm.append(seconds)
        ratios.append(cold / min(warm))
    assert statistics.median(ratios) >= 10


def test_eight_simultaneous_requests_compute_their_prefix_once(smollm2_server: Server) -> None:
    prefix = prefix_of(900, random.Random(4), smollm2_server)
    before = computed(smollm2_server)
    bodies = [{"prompt": [*prefix, 300 + i, 400 + i], "max_tokens": 1, "temperature": 0} for i in range(8)]
    folds = asyncio.run(streams(smollm2_server.url, bodies))
    assert computed(smollm2_server) - before <= 900 + 8 * 3
    cached = sorted(fold["usage"]["prompt_tokens_details"]["cached_tokens"] for fold in folds)
    assert cached[0] < 8 and cached[1:] == [900] * 7


def test_the_choices_of_one_request_share_its_prompt(smollm2_server: Server) -> None:
    prompt = prefix_of(300, random.Random(5), smollm2_server)
    before = computed(smollm2_server)
    asyncio.run(stream(smollm2_server.url, {"prompt": prompt, "max_tokens": 1, "n": 6, "seed": 1}))
    assert computed(smollm2_server) - before <= 300 + 6


def computed(server: Server) -> int:
    """Tokens that the device has computed so far."""
    count: int = server.get("/server_info").json()["internal_states"][0]["device_tokens"]
    return count
