"""A model's files are replaced while a server runs: whoever has begun gets the old bytes or an explicit end, and what is
there now is served once somebody says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.numpy import save_file

from tests.device.model_kit import dummy
from tests.e2e.kit import TINY, Server, same, serving, stream, tiny_model
from tests.e2e.test_supervisor import wait_until

LONG = {"prompt": "a long way", "max_tokens": 3000, "ignore_eos": True, "seed": 1, "temperature": 0.8}
SHORT = {**LONG, "max_tokens": 12}


def weights(seed: int, path: Path) -> None:
    source = dummy(TINY, seed=seed)
    norms = {name for name in source.names if name.endswith("norm.weight")}
    save_file({n: source.vector(n) if n in norms else source.stored(n).data for n in source.names}, path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """With the weights of another one beside it."""
    folder = tiny_model(tmp_path / "m")
    weights(1, folder / "model.safetensors")
    weights(2, tmp_path / "other.safetensors")
    shutil.copy2(folder / "model.safetensors", tmp_path / "kept.safetensors")
    return folder


def swapped(tokenizer: str) -> str:
    """Another that is as good, but for two letters that have changed their places."""
    told = json.loads(tokenizer)
    words = told["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    return json.dumps(told)


async def begun_when_the_files_change(server: Server, model: Path) -> str:
    """How a stream ends whose engine dies behind a change of its model's files."""
    said = asyncio.Event()
    task = asyncio.create_task(stream(server.url, LONG, on_chunk=said.set))
    await said.wait()
    os.replace(model.parent / "other.safetensors", model / "model.safetensors")
    assert server.kill()
    with pytest.raises(AssertionError, match="error in the stream") as error:
        await task
    return str(error.value)


def test_nobody_gets_other_weights_under_the_same_name(model: Path, tmp_path: Path) -> None:
    def short() -> dict[str, Any]:
        return asyncio.run(stream(server.url, SHORT))

    with serving(model, "--max-total-tokens", "8192", folder=tmp_path) as server:
        before = short()
        assert server.kill() and same(short(), before)  # the same files: as ever
        ending = asyncio.run(begun_when_the_files_change(server, model))
        ready = server.get("/ready")
        told = json.dumps(ready.json())
        assert ready.status_code == 503 and ready.json()["state"] == "failed", told
        for words in (told, ending, server.post("/v1/completions", **SHORT).text):
            assert "model.safetensors changed on disk" in words and "/admin/reload" in words
        assert not server.pids("engine") and server.get("/live").status_code == 200

        assert server.post("/admin/reload").status_code == 200
        now = short()
        assert not same(now, before)
        assert server.kill() and same(short(), now)  # another deployment, with files of its own

        os.replace(tmp_path / "kept.safetensors", model / "model.safetensors")
        assert server.post("/admin/reload").status_code == 200 and same(short(), before)
        wait_until(lambda: len(server.pids("engine")) == 1)
        assert server.get("/ready").status_code == 200
        assert "Traceback" not in server.log.read_text()


def test_nobody_gets_other_tokens_under_the_same_name(tmp_path: Path) -> None:
    """A front that takes another's place reads the files anew, and so does the process of the first grammar."""
    path = tiny_model(tmp_path / "m") / "tokenizer.json"
    old = path.read_text()

    def short() -> dict[str, Any]:
        return asyncio.run(stream(server.url, SHORT))

    def bound() -> httpx.Response:
        return server.post("/v1/completions", prompt="x", max_tokens=4, response_format={"type": "json_object"})

    def state() -> str:
        with contextlib.suppress(httpx.HTTPError):
            return str(server.get("/ready").json()["state"])
        return ""

    with serving(path.parent, "--load-format", "dummy", folder=tmp_path) as server:
        before = short()
        path.write_text(swapped(old))
        refused = bound()
        assert refused.status_code >= 400 and "tokenizer.json changed on disk" in refused.text
        assert "/admin/reload" in refused.text and same(short(), before)

        assert server.kill("front")
        wait_until(lambda: state() == "failed")
        ready = server.get("/ready")
        assert ready.status_code == 503 and "tokenizer.json changed on disk" in ready.text
        assert "/admin/reload" in ready.text and server.get("/live").status_code == 200
        assert server.post("/v1/completions", **SHORT).status_code == 503
        path.write_text("{")  # being copied, and no tokenizer at all as yet
        gone = server.pids("front")
        assert server.kill("front")
        wait_until(lambda: server.pids("front") not in ([], gone) and state() == "failed")
        path.write_text(swapped(old))

        assert server.post("/admin/reload").status_code == 200
        assert bound().status_code == 200 and short()["text"] != before["text"]
        path.write_text(old)
        assert server.post("/admin/reload").status_code == 200 and same(short(), before)
        assert server.kill("front")
        wait_until(lambda: state() == "ready")
        assert same(short(), before) and bound().status_code == 200
        assert "Traceback" not in server.log.read_text()
