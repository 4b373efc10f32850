"""Models whose caches are not a Llama's, over HTTP: windows with sinks and experts; latents with experts. Engines are killed,
streams go on with the same bytes; what is cached is found again, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.kit import TINY, Server, same, serving, stream, streams, tiny_model

WINDOW = 70  # pages are of 64
MODELS: dict[str, dict[str, Any]] = {
    "windows": {
        "architectures": ["GptOssForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 32,
        "sliding_window": WINDOW, "num_hidden_layers": 6, "eos_token_id": 257, "vocab_size": 300,
    },
    "latents": {
        "architectures": ["DeepseekV3ForCausalLM"], "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": 64, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "num_hidden_layers": 6,
        "num_key_value_heads": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    common = {key: TINY[key] for key in TINY if key not in ("model_type", "rope_theta", "rms_norm_eps")}
    model = tiny_model(folder / "model", {**common, **MODELS[request.param]})
    flags = ("--load-format", "dummy", "--max-total-tokens", "8192")
    with serving(model, *flags, folder=folder) as started:
        yield started


def body(seed: int, tokens: int, **more: Any) -> dict[str, Any]:
    prompt = f"A mill stood by the river for {seed} years, " * (3 + 4 * seed)
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0.8, "seed": seed, "ignore_eos": True, **more}


def test_killed_engines_change_no_byte(server: Server) -> None:
    bodies = [body(seed, 150, logprobs=1) for seed in range(4)]
    undisturbed = [asyncio.run(stream(server.url, one)) for one in bodies]

    async def disturbed() -> list[dict[str, Any]]:
        running = asyncio.create_task(streams(server.url, bodies))
        for wait in (0.3, 1.2):
            await asyncio.sleep(wait)
            await asyncio.to_thread(server.kill)
        return await running

    assert all(same(one, two) for one, two in zip(asyncio.run(disturbed()), undisturbed, strict=True))


def test_a_conversation_goes_on_from_what_is_cached(server: Server) -> None:
    first = asyncio.run(stream(server.url, body(5, 90)))
    prompt = server.post("/tokenize", prompt=body(5, 90)["prompt"]).json()["tokens"]
    again = body(9, 40, prompt=prompt + first["tokens"][0])
    found = asyncio.run(stream(server.url, again))
    cached = found["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= found["usage"]["prompt_tokens"] - 2 * WINDOW
    assert server.post("/flush_cache").status_code == 200
    assert same(asyncio.run(stream(server.url, again)), found)
