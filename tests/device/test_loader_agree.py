"""One model, two formats: safetensors and GGUF of the same weights give the same model; names are transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from radixmill.device.kernels import open_backend
from radixmill.device.kernels.contract import Ops
from radixmill.device.loader import Checkpoint, open_checkpoint
from radixmill.store import ModelFiles
from tests.device.gguf_cases import transformers_name, words
from tests.device.gguf_kit import CONFIGS, weights, write_gguf
from tests.device.model_kit import Driver, build

PROMPT = [3, 17, 5, 80, 80, 1, 44, 9, 61, 23, 2]


@pytest.fixture(scope="module")
def ops() -> Ops:
    return open_backend("reference", mode="exact", threads=1, isa="auto")


def as_folder(path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Checkpoint:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return open_checkpoint(ModelFiles("m", path))


def as_gguf(path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Checkpoint:
    return open_checkpoint(ModelFiles("m", write_gguf(path, config, tensors)))


def logits(checkpoint: Checkpoint, ops: Ops) -> np.ndarray:
    return Driver(build(checkpoint, ops)).run([PROMPT], [[len(PROMPT)]])[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_both_formats_give_the_same_bits(name: str, tmp_path: Path, ops: Ops) -> None:
    config, tensors = CONFIGS[name], weights(CONFIGS[name])
    one = logits(as_folder(tmp_path / "folder", config, tensors), ops)
    two = logits(as_gguf(tmp_path / "m.gguf", config, tensors), ops)
    assert np.isfinite(one).all() and one.std() > 1e-3
    np.testing.assert_array_equal(one, two)


@pytest.mark.oracle
@pytest.mark.parametrize("name", CONFIGS)
def test_names_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = CONFIGS[name]
    settings = getattr(transformers, f"{transformers_name(config)}Config")
    model = getattr(transformers, config["architectures"][0])(settings(**words(config)))
    model.save_pretrained(tmp_path / "saved")
    folder = open_checkpoint(ModelFiles("m", tmp_path / "saved"))
    assert folder.names == set(weights(config))
