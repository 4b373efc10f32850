"""What a model needs is known from headers alone, closely enough to refuse what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, ModelOptions
from radixmill.core.errors import NoRoom
from radixmill.device import executor, room
from radixmill.device.executor import open_executor
from radixmill.device.worker import detect
from radixmill.store import ModelFiles
from tests.e2e.kit import tiny_model


@pytest.fixture
def tiny(tmp_path: Path) -> ModelFiles:
    return ModelFiles("tiny", tiny_model(tmp_path / "tiny"))


def config(**compute: str) -> Config:
    return Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(**compute),
        cache=CacheOptions(max_total_tokens=4096),
    )


@pytest.mark.parametrize("quantization", ["auto", "w8", "w4"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_estimate_is_what_is_then_taken(
    tiny: ModelFiles, monkeypatch: pytest.MonkeyPatch, quantization: str, backend: str
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(executor, "check_room", lambda weights, kv, free: asked.append((weights, kv)))
    opened = open_executor(config(quantization=quantization, backend=backend), tiny, beside=True)
    ((weights, kv),) = asked
    assert kv == opened.runner.kv.nbytes
    assert weights == pytest.approx(opened.nbytes - kv, rel=0.03)


@pytest.mark.weights
def test_the_estimate_of_a_gguf_file(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(executor, "check_room", lambda weights, kv, free: asked.append(weights))
    options = replace(config(), model=ModelOptions())
    opened = open_executor(options, ModelFiles("m", smollm2), beside=True)
    assert asked == [pytest.approx(opened.nbytes - opened.runner.kv.nbytes, rel=0.03)]


def test_what_does_not_fit_is_refused_before_anything_is_packed(
    tiny: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were packed")

    monkeypatch.setattr(executor, "Build", packed)
    full = replace(detect(), free_bytes=room.OVERHEAD + (30 << 20))
    with pytest.raises(NoRoom, match=r"11 MiB for weights, 24 MiB for the KV cache .* 94 MiB of memory are free"):
        open_executor(config(), tiny, full, beside=True)
    with pytest.raises(NoRoom, match="but 0 MiB of memory are free"):
        open_executor(config(), tiny, replace(full, free_bytes=1 << 33), beside=True, promised=1 << 33)
