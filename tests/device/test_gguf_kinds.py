"""Every kind of block that a GGUF file may hold, from the file to what is computed with: what the `gguf` package says it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from radixmill.device.kernels.contract import Ops
from radixmill.device.layers import Build, Part
from radixmill.device.loader import open_checkpoint
from radixmill.store import ModelFiles
from radixmill.store.gguf import BLOCKS
from tests.device.gguf_kit import CONFIGS, write_gguf
from tests.device.kernel_kit import BACKENDS, backend, normal

ROWS, COLUMNS = 24, 512
NO_WEIGHTS = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}  # what activations, indices and the like are held in
KINDS = sorted(set(BLOCKS) - NO_WEIGHTS)
CONFIG: dict[str, Any] = {**CONFIGS["qwen2"], "hidden_size": COLUMNS, "vocab_size": ROWS}


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "exact")


def meant(kind: str, data: np.ndarray) -> np.ndarray:
    """By the package; one-bit blocks, which it has no reader for, by llama.cpp's definition."""
    if kind != "Q1_0":
        with np.errstate(all="ignore"):
            return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    blocks = data.reshape(len(data), -1, 18)
    signs = np.array(
        [[[1 if block[2 + i // 8] >> i % 8 & 1 else -1 for i in range(128)] for block in row] for row in blocks]
    )
    scales = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return (signs * scales).reshape(len(data), -1).astype(np.float32)


def blocks(kind: str) -> np.ndarray:
    """Random bytes, drawn again where they are no finite numbers of ordinary size."""
    values, size = BLOCKS[kind]
    draw = np.random.default_rng(len(kind))
    data = draw.integers(0, 256, (ROWS, COLUMNS // values, size), np.uint8)
    while True:
        found = meant(kind, data.reshape(ROWS, -1)).reshape(ROWS, COLUMNS // values, values)
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(found).max(axis=2) < 1e6)
        if not bad.any():
            return data.reshape(ROWS, -1)
        data[bad] = draw.integers(0, 256, (int(bad.sum()), size), np.uint8)


def test_no_kind_of_the_package_is_forgotten() -> None:
    assert {kind.name for kind in gguf.GGMLQuantizationType} <= set(KINDS) | NO_WEIGHTS


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_what_the_package_says(kind: str, ops: Ops, tmp_path: Path) -> None:
    data = blocks(kind)
    stored = {"F32": np.float32, "F16": np.float16}.get(kind)
    raw = data.view(stored) if stored else data
    path = write_gguf(tmp_path / "m.gguf", CONFIG, {"model.embed_tokens.weight": raw}, gguf.GGMLQuantizationType[kind])
    checkpoint = open_checkpoint(ModelFiles("m", path))
    assert checkpoint.stored("model.embed_tokens.weight").kind == kind
    build = Build(ops, checkpoint, 8)
    weight = build.weight(Part(("model.embed_tokens",)), (ROWS,), COLUMNS)
    wanted = meant(kind, data).astype(np.float64)
    found = ops.embed(np.arange(ROWS), weight).astype(np.float64)
    lost = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert lost.max() <= 1e-6  # the promise is 1e-3
    x = normal(3, COLUMNS)
    product = x.astype(np.float64) @ wanted.T
    assert np.abs(ops.linear(x, weight) - product).max() <= 1e-5 * np.abs(product).max()
    assert bool(build.notes) == (ops.packs(kind) is None)
