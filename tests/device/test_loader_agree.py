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
from tests.device.gguf_kit import CONFIGS, write_gguf
from tests.device.model_kit import Driver, build, dummy

PROMPT = [3, 17, 5, 80, 80, 1, 44, 9, 61, 23, 2]


@pytest.fixture(scope="module")
def ops() -> Ops:
    return open_backend("reference", mode="exact", threads=1, isa="auto")


def weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    source = dummy(config, seed=2)
    is_vector = {n: n.endswith((".bias", "norm.weight")) for n in source.names}
    return {n: source.vector(n) if is_vector[n] else source.stored(n).data for n in sorted(source.names)}


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
    kind = config["architectures"][0].removesuffix("ForCausalLM").replace("Gemma3", "Gemma3Text")
    settings = getattr(transformers, f"{kind}Config")(**{k: v for k, v in config.items() if k != "architectures"})
    model = getattr(transformers, config["architectures"][0])(settings)
    model.save_pretrained(tmp_path / "saved")
    folder = open_checkpoint(ModelFiles("m", tmp_path / "saved"))
    tensors = {n: p.detach().numpy() for n, p in model.state_dict().items() if n in folder.names}
    gguf_file = as_gguf(tmp_path / "m.gguf", config, tensors)
    assert folder.names == gguf_file.names == dummy(config).names
    for tensor, values in tensors.items():
        read = folder.vector(tensor) if values.ndim == 1 else folder.stored(tensor).data
        np.testing.assert_array_equal(read, values)
