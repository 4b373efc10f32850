"""Folders of safetensors, random weights, fingerprints, and the door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from radixmill.core.errors import BadModel
from radixmill.device.loader import Checkpoint, open_checkpoint
from radixmill.device.models import family
from radixmill.store import ModelFiles
from tests.device import tiny_models
from tests.device.gguf_kit import CONFIGS, write_gguf
from tests.device.model_kit import dummy

RNG = np.random.default_rng(0)


def folder(path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> ModelFiles:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return ModelFiles("m", path)


@pytest.fixture
def small(tmp_path: Path) -> ModelFiles:
    tensors = {
        "w": RNG.standard_normal((4, 6)).astype(np.float32),
        "half": RNG.standard_normal((2, 3)).astype(np.float16),
        "wide": RNG.standard_normal((2, 2)),
        "norm": RNG.standard_normal(5).astype(np.float16),
        "ids": np.arange(4).reshape(2, 2),
    }
    return folder(tmp_path / "m", {"architectures": ["LlamaForCausalLM"], "eos_token_id": 7}, tensors)


def test_a_folder(small: ModelFiles) -> None:
    found = open_checkpoint(small)
    assert found.names == {"w", "half", "wide", "norm", "ids"} and found.config["eos_token_id"] == 7
    assert found.eos_ids == (7,) and not found.norms_include_one
    assert (found.stored("w", (4, 6)).kind, found.stored("half").kind, found.stored("wide").kind) == (
        "F32",
        "F16",
        "F32",
    )
    norm = found.vector("norm", 5)
    assert norm.dtype == np.float32 and norm.shape == (5,)
    found.close()


def test_what_a_folder_refuses(small: ModelFiles) -> None:
    found = open_checkpoint(small)
    with pytest.raises(BadModel, match="no tensor absent"):
        found.stored("absent")
    with pytest.raises(BadModel, match=r"tensor w has shape \[4, 6\], but .* needs \[4, 7\]"):
        found.stored("w", (4, 7))
    with pytest.raises(BadModel, match=r"tensor norm has shape \[5\], not 2 dimensions"):
        found.stored("norm")
    with pytest.raises(BadModel, match="tensor ids is of type I64"):
        found.stored("ids")


def test_bfloat16_and_data_at_odd_places(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [3.0, 0.125]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)  # the data begins at an odd byte
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    stored = open_checkpoint(ModelFiles("m", tmp_path)).stored("w")
    assert (8 + len(header)) % 2 == 1 and stored.data.flags.aligned
    assert stored.kind == "BF16" and stored.data.tolist() == bits.tolist()


def test_no_configuration(tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(BadModel, match=r"no config\.json"):
        open_checkpoint(ModelFiles("m", tmp_path))


@pytest.mark.parametrize("load_format", ["gguf", "other"])
def test_a_format_that_it_is_not(small: ModelFiles, load_format: str) -> None:
    with pytest.raises(BadModel, match=f"--load-format says {load_format}"):
        open_checkpoint(small, load_format=load_format)
    assert open_checkpoint(small, load_format="safetensors").names


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    def made(name: str, value: float, rows: int = 300) -> str:
        tensors = {"w": np.full((rows, 100), value, np.float32)}
        return open_checkpoint(folder(tmp_path / name, {"a": 1}, tensors)).fingerprint

    first = made("a", 1.0)
    assert made("b", 1.0) == first and len(first) == 64
    assert len({first, made("c", 1.5), made("d", 1.0, rows=301)}) == 3


def test_fingerprints_of_gguf_files(tmp_path: Path) -> None:
    config, weights = CONFIGS["qwen2"], {"model.embed_tokens.weight": np.ones((264, 64), np.float32)}
    first = open_checkpoint(ModelFiles("m", write_gguf(tmp_path / "a.gguf", config, weights))).fingerprint
    again = open_checkpoint(ModelFiles("m", write_gguf(tmp_path / "b.gguf", config, weights))).fingerprint
    weights["model.embed_tokens.weight"] *= 2
    other = open_checkpoint(ModelFiles("m", write_gguf(tmp_path / "c.gguf", config, weights))).fingerprint
    assert first == again != other


@pytest.mark.parametrize("name", CONFIGS)
def test_random_weights_are_what_a_family_wants(name: str) -> None:
    config = CONFIGS[name]
    made: Checkpoint = dummy(config)
    kind = family(config)
    kind.weights.check(kind.config.from_hf(config), made.names)


@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_every_family_has_random_weights(name: str) -> None:
    config = tiny_models.config(name)
    kind = family(config)
    kind.weights.check(kind.config.from_hf(config), dummy(config).names)


def test_random_weights_are_the_same_each_time_and_of_use() -> None:
    config = {**CONFIGS["llama"], "hidden_size": 256}
    one, two, other = dummy(config, 3), dummy(config, 3), dummy(config, 4)
    q, k = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(one.stored(q).data, two.stored(q).data)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert not np.array_equal(one.stored(q).data, other.stored(q).data)
    assert not np.array_equal(one.stored(q).data, one.stored(k).data)
    assert one.stored(q).data.all() and abs(one.stored(q).data.std() * 16 - 1) < 0.02
    assert (
        one.vector("model.norm.weight").min() >= 0.9
        and abs(dummy(CONFIGS["gemma2"]).vector("model.norm.weight")).max() < 0.2
    )


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32"), (None, "F32")]
)
def test_random_weights_have_the_dtype_of_the_configuration(dtype: str | None, kind: str) -> None:
    stored = dummy({**CONFIGS["qwen3"], "torch_dtype": dtype}).stored("model.embed_tokens.weight", (264, 64))
    assert stored.kind == kind and stored.data.all()


def test_random_weights_from_a_folder_and_from_a_gguf(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["llama-tied"], "eos_token_id": 3}))
    made = open_checkpoint(ModelFiles("m", tmp_path), load_format="dummy", seed=5)
    assert made.eos_ids == (3,) and made.fingerprint.startswith("dummy-")
    path = write_gguf(tmp_path / "m.gguf", CONFIGS["llama-tied"], {})
    assert open_checkpoint(ModelFiles("m", path), load_format="dummy").config["vocab_size"] == made.config["vocab_size"]


def test_what_random_weights_refuse() -> None:
    made = dummy(CONFIGS["llama"])
    with pytest.raises(BadModel, match="no tensor x"):
        made.stored("x")
    assert made.stored("x", (3, 5)).shape == (3, 5)
    with pytest.raises(BadModel, match="needs"):
        made.stored("model.embed_tokens.weight", (3, 5))


def test_random_weights_do_not_ask_how_the_files_are_packed(tmp_path: Path) -> None:
    config = {"architectures": ["GptOssForCausalLM"], "quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = open_checkpoint(ModelFiles("m", tmp_path), load_format="dummy")
    assert found.config == {"architectures": ["GptOssForCausalLM"]}
