"""Another model takes over while streams run: nobody notices but by what new requests get."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.kit import TINY, Server, same, serving, stream, streams, tiny_model
from tests.e2e.test_supervisor import wait_until

LONG = {"prompt": "a long way", "max_tokens": 600, "ignore_eos": True, "seed": 1, "temperature": 0.8}
SHORT = {**LONG, "max_tokens": 12}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose random weights differ from those of `tiny`."""
    folder = tiny_model(tmp_path_factory.mktemp("models") / "other")
    (folder / "config.json").write_text(json.dumps({**TINY, "rms_norm_eps": 1e-4, "rope_theta": 5000.0}))
    return folder


@pytest.fixture(scope="module", params=[1, 2], ids=["one front", "two fronts"])
def server(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    flags = ("--load-format", "dummy", "--fronts", str(request.param), "--max-total-tokens", "16384")
    with serving(tiny, *flags, folder=tmp_path_factory.mktemp("reload")) as started:
        wait_until(lambda: len(started.pids("front")) == request.param)
        yield started


def reload(server: Server, model: Path | None = None, **more: Any) -> httpx.Response:
    return server.post("/admin/reload", **({} if model is None else {"model": str(model)}), **more)


def folder_of(server: Server) -> Path:
    """The server's private folder: the one that its engine's socket lies in."""
    found = [Path(tempfile.gettempdir()) / name for name in os.listdir(tempfile.gettempdir())]
    (pid,) = server.pids("engine")
    maps = Path(f"/proc/{pid}/maps").read_text()
    return next(path for path in found if path.name.startswith("radixmill-") and str(path) in maps)


def test_live_streams_finish_on_the_old_model_and_new_requests_get_the_new(
    server: Server, tiny: Path, other: Path
) -> None:
    reload(server, tiny).raise_for_status()
    (old_long,) = asyncio.run(streams(server.url, [LONG]))
    (old_short,) = asyncio.run(streams(server.url, [SHORT]))
    (engine,) = server.pids("engine")

    async def story() -> tuple[list[dict[str, Any]], dict[str, Any], httpx.Response]:
        started = [asyncio.Event() for _ in range(6)]
        running = [
            asyncio.create_task(stream(server.url, LONG, on_chunk=event.set)) for event in started
        ]
        await asyncio.gather(*(event.wait() for event in started))
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(f"{server.url}/admin/reload", json={"model": str(other)})
            new = await stream(server.url, SHORT)
        return await asyncio.gather(*running), new, answer

    kept, new, answer = asyncio.run(story())
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["served"]["names"] == ["other"] and told["previous"]["names"] == [tiny.name]
    assert told["served"]["numerics"] != told["previous"]["numerics"] and told["seconds"] > 0
    assert all(same(each, old_long) for each in kept)
    assert not same(new, old_short)
    wait_until(lambda: len(server.pids("engine")) == 1)
    assert server.pids("engine") != [engine]
    with serving(other, "--load-format", "dummy", folder=_fresh(server)) as lone:
        assert same(asyncio.run(stream(lone.url, SHORT)), new)
    for _ in range(4):  # whichever front answers
        assert [card["id"] for card in server.get("/v1/models").json()["data"]] == ["other"]
        assert server.get("/model_info").json()["model_path"] == str(other)
        assert server.get("/server_info").json()["config"]["model"]["model"] == str(other)
    folder = folder_of(server)
    numbers = {path.name.split("-")[1].split(".")[0] for path in folder.glob("engine-*")}
    assert len(numbers) == 1, "the old engine's files have been removed"


def _fresh(server: Server) -> Path:
    return Path(tempfile.mkdtemp(dir=server.log.parent))
