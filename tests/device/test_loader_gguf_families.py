"""Every GGUF architecture: what the kit writes of a configuration and its weights is read back; experts stay packed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from radixmill.device.loader import open_checkpoint
from radixmill.device.loader.gguf_config import gguf_config
from radixmill.device.models import family
from radixmill.device.quant import widen
from radixmill.store import GGUFFile, ModelFiles
from tests.device.gguf_kit import CONFIGS, changed, is_mixture, is_vector, weights, write_gguf

Q = gguf.GGMLQuantizationType


def meaning(config: Mapping[str, Any]) -> Any:
    """What a model file understands of a configuration."""
    return family(config).config.from_hf(config)


def opened(path: Path) -> Any:
    return open_checkpoint(ModelFiles("m", path))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_means_the_same(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    found = opened(write_gguf(tmp_path / "m.gguf", config, weights(config)))
    assert found.config["architectures"] == config["architectures"]
    assert meaning(found.config) == meaning(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_values_are_those_written(name: str, tmp_path: Path) -> None:
    config, written = CONFIGS[name], weights(CONFIGS[name])
    found = opened(write_gguf(tmp_path / "m.gguf", config, written))
    wanted = apart(written, config)
    assert found.names == set(wanted)
    assert found.norms_include_one == name.startswith("gemma")
    for tensor, values in wanted.items():
        if is_vector(values):
            one = np.float32(found.norms_include_one and tensor.endswith("norm.weight"))
            np.testing.assert_array_equal(found.vector(tensor, len(values)), values + one)
        else:
            np.testing.assert_array_equal(found.stored(tensor, values.shape).data, values)


def apart(written: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A latent's projection lies in the file as one matrix of each head for its keys, and one for its values; gates and ups
    of Granite's shared blocks lie apart."""
    found = dict(written)
    for name in [name for name in found if name.endswith("shared_mlp.input_linear.weight")]:
        halves = zip(("gate_proj", "up_proj"), np.split(found.pop(name), 2), strict=True)
        found |= {name.replace("input_linear", part): half for part, half in halves}
    for name in [name for name in found if name.endswith(".kv_b_proj.weight")]:
        heads = found.pop(name).reshape(config["num_attention_heads"], -1, config["kv_lora_rank"])
        for h, head in enumerate(heads):
            stem = name.removesuffix("weight")
            found[f"{stem}k.{h}.weight"] = head[: config["qk_nope_head_dim"]].T
            found[f"{stem}v.{h}.weight"] = head[config["qk_nope_head_dim"] :]
    return found


@pytest.mark.parametrize("name", [name for name in CONFIGS if is_mixture(name)])
@pytest.mark.parametrize("quant", [Q.Q8_0, Q.MXFP4], ids=lambda q: q.name)
def test_experts_stay_packed(quant: gguf.GGMLQuantizationType, name: str, tmp_path: Path) -> None:
    """Each is a view of its part of the stack: nothing is copied before it is packed for the machine."""
    config, written = CONFIGS[name], weights(CONFIGS[name])
    path = write_gguf(tmp_path / "m.gguf", config, written, quant)
    found = opened(path)
    experts = [n for n in found.names if ".experts." in n and n.endswith(".weight")]
    assert len(experts) >= 12
    for n in experts:
        stored = found.stored(n, written[n].shape)
        assert stored.kind == quant.name and not stored.data.flags.owndata
        rounded = gguf.quants.dequantize(gguf.quants.quantize(written[n], quant), quant)
        np.testing.assert_array_equal(widen(stored).data, rounded)
    lying = sum(tensor.nbytes for tensor in found.lying())
    assert lying == sum(info.nbytes for info in GGUFFile(path).tensors.values())


@pytest.mark.parametrize("name", ["llama", "qwen2", "granite"])
def test_queries_keys_and_values_in_one_tensor(name: str, tmp_path: Path) -> None:
    """As the converters' --fuse-qkv writes them."""
    config, family = CONFIGS[name], CONFIGS[name]["architectures"][0].removesuffix("ForCausalLM")
    written = weights(config)
    tensors = dict(written)
    for layer, kind in itertools.product(range(config["num_hidden_layers"]), ("weight", "bias")):
        parts = [f"model.layers.{layer}.self_attn.{part}_proj.{kind}" for part in "qkv"]
        if parts[0] in tensors:
            rows = [changed(part, tensors.pop(part), family, config) for part in parts]
            tensors[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate(rows)
    same(opened(write_gguf(tmp_path / "m.gguf", config, tensors)), written)


def test_gates_and_ups_of_experts_in_one_tensor(tmp_path: Path) -> None:
    """As the converters' --fuse-gate-up-exps writes them."""
    config = CONFIGS["qwen3moe"]
    written = weights(config)
    tensors = {
        name: values for name, values in written.items() if not name.endswith(("gate_proj.weight", "up_proj.weight"))
    }
    for layer in range(config["num_hidden_layers"]):
        stems = [f"model.layers.{layer}.mlp.experts.{e}" for e in range(config["num_experts"])]
        fused = [np.concatenate([written[f"{s}.{part}_proj.weight"] for part in ("gate", "up")]) for s in stems]
        tensors[f"blk.{layer}.ffn_gate_up_exps.weight"] = np.stack(fused)
    same(opened(write_gguf(tmp_path / "m.gguf", config, tensors)), written)


def test_experts_one_by_one(tmp_path: Path) -> None:
    """As the first converters of Mixtral wrote them."""
    config = CONFIGS["mixtral"]
    written = weights(config)
    parts = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    pattern = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(\w+)\.weight")
    old = {pattern.sub(lambda p: f"blk.{p[1]}.{parts[p[3]]}.{p[2]}.weight", name): v for name, v in written.items()}
    assert "blk.2.ffn_down.5.weight" in old
    same(opened(write_gguf(tmp_path / "m.gguf", config, old)), written)


@pytest.mark.parametrize(
    ("vocabulary", "layers", "sigmoid"), [(154_880, 47, True), (154_880, 3, False), (264, 47, False)]
)
def test_a_file_of_glm_flash_need_not_say_how_experts_are_weighed(
    vocabulary: int, layers: int, sigmoid: bool, tmp_path: Path
) -> None:
    config = {**CONFIGS["deepseek3"], "num_hidden_layers": layers}
    keys = {"deepseek2.expert_gating_func": None, "deepseek2.vocab_size": vocabulary}
    found = gguf_config(GGUFFile(write_gguf(tmp_path / "m.gguf", config, {}, keys=keys)))
    assert found["architectures"] == ["DeepseekV3ForCausalLM" if sigmoid else "DeepseekV2ForCausalLM"]


def test_layers_that_predict_further_ahead_are_left_out(tmp_path: Path) -> None:
    config = CONFIGS["glm4moe"]
    written, ones = weights(config), np.ones((64, 64), np.float32)
    ahead = {f"blk.3.{name}.weight": ones for name in ("nextn.eh_proj", "nextn.embed_tokens", "attn_output")}
    same(opened(write_gguf(tmp_path / "m.gguf", config, {**written, **ahead})), written)


def test_latents_of_older_files(tmp_path: Path) -> None:
    """They have one projection, and the sizes of heads as they are expanded."""
    config = CONFIGS["deepseek2-lite"]
    written = weights(config)
    tensors = {
        re.sub(r"model.layers.(\d+).self_attn.kv_b_proj", r"blk.\1.attn_kv_b", name): values
        for name, values in written.items()
    }
    keys = {"key_length": 40, "value_length": 16, "head_count_kv": 4, "key_length_mla": None, "value_length_mla": None}
    keys = {f"deepseek2.attention.{key}": value for key, value in keys.items()}
    found = opened(write_gguf(tmp_path / "m.gguf", config, tensors, keys=keys))
    assert meaning(found.config) == meaning(config)
    same(found, written)


def same(found: Any, written: Mapping[str, np.ndarray]) -> None:
    assert found.names == set(written)
    for name, values in written.items():
        read = found.vector(name) if is_vector(values) else found.stored(name, values.shape).data
        np.testing.assert_array_equal(read, values, name)
