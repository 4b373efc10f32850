"""A GGUF file of a Hugging Face model, written as llama.cpp's converters do, with the `gguf` package's own tables.

That it does so is proved by tests/device/test_gguf_facts.py: recorded headers of what the converters wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.device.gguf_cases import CONFIGS
from tests.device.gguf_kit_keys import metadata
from tests.device.model_kit import dummy, shapes

__all__ = ["ARCHES", "CONFIGS", "changed", "is_mixture", "is_vector", "weights", "write_gguf"]

ARCHES = {
    "Cohere": gguf.MODEL_ARCH.COMMAND_R,
    "Cohere2": gguf.MODEL_ARCH.COHERE2,
    "DeepseekV2": gguf.MODEL_ARCH.DEEPSEEK2,
    "DeepseekV3": gguf.MODEL_ARCH.DEEPSEEK2,
    "Dots1": gguf.MODEL_ARCH.DOTS1,
    "Ernie4_5": gguf.MODEL_ARCH.ERNIE4_5,
    "Exaone4": gguf.MODEL_ARCH.EXAONE4,
    "Ernie4_5_Moe": gguf.MODEL_ARCH.ERNIE4_5_MOE,
    "Gemma": gguf.MODEL_ARCH.GEMMA,
    "Gemma2": gguf.MODEL_ARCH.GEMMA2,
    "Gemma3": gguf.MODEL_ARCH.GEMMA3,
    "Glm4": gguf.MODEL_ARCH.GLM4,
    "Glm4Moe": gguf.MODEL_ARCH.GLM4_MOE,
    "GptOss": gguf.MODEL_ARCH.GPT_OSS,
    "Granite": gguf.MODEL_ARCH.GRANITE,
    "GraniteMoe": gguf.MODEL_ARCH.GRANITE_MOE,
    "GraniteMoeShared": gguf.MODEL_ARCH.GRANITE_MOE,
    "Llama": gguf.MODEL_ARCH.LLAMA,
    "MiniMaxM2": gguf.MODEL_ARCH.MINIMAXM2,
    "Mixtral": gguf.MODEL_ARCH.LLAMA,
    "Olmo2": gguf.MODEL_ARCH.OLMO2,
    "Olmo3": gguf.MODEL_ARCH.OLMO2,
    "Olmoe": gguf.MODEL_ARCH.OLMOE,
    "Phi3": gguf.MODEL_ARCH.PHI3,
    "Qwen2": gguf.MODEL_ARCH.QWEN2,
    "Qwen2Moe": gguf.MODEL_ARCH.QWEN2MOE,
    "Qwen3": gguf.MODEL_ARCH.QWEN3,
    "Qwen3Moe": gguf.MODEL_ARCH.QWEN3MOE,
    "SeedOss": gguf.MODEL_ARCH.SEED_OSS,
    "SmolLM3": gguf.MODEL_ARCH.SMOLLM3,
    "Youtu": gguf.MODEL_ARCH.DEEPSEEK2,
}
# Whose converters bring rows of queries and keys that turn together side by side.
INTERLEAVED = ("Llama", "Mixtral", "Granite", "GraniteMoe", "GraniteMoeShared", "SmolLM3")
_ALWAYS_FLOAT = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "_norm.weight")
_OTHER_NAMES = (
    ("e_score_correction_bias", "e_score_correction.bias"),
    ("mlp.e_score", "block_sparse_moe.e_score"),
    ("mlp.router.layer", "block_sparse_moe.router.layer"),
)
_STACKED = re.compile(r"(.*\.experts)\.\d+\.(.*)")


def weights(config: Mapping[str, Any], seed: int = 1) -> dict[str, np.ndarray]:
    """Of every tensor of a model with this configuration, by its name in a checkpoint."""
    source, of = dummy(config, seed), shapes(config)
    return {n: source.vector(n) if len(of[n]) == 1 else source.stored(n).data for n in sorted(of)}


def is_vector(values: np.ndarray) -> bool:
    return values.ndim == 1


def is_mixture(name: str) -> bool:
    return "num_experts_per_tok" in CONFIGS[name]


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    keys: Mapping[str, Any] = {},
) -> Path:
    """`keys`: more metadata, by full name; None: left out. Names that begin as GGUF's are taken as they are. Matrices become `quant` where their rows fit its blocks, or are its bytes."""
    family = config["architectures"][0].removesuffix("ForCausalLM")
    arch = ARCHES[family]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    for key, value in {**metadata(family, gguf.MODEL_ARCH_NAMES[arch], config), **keys}.items():
        if value is not None:
            _add(writer, key, value)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, values in {**_converted(tensors, family, config), **_factors(config)}.items():
        gguf_name = name if name.startswith(("rope_f", "blk.")) else names.get_name(name, (".weight", ".bias"))
        assert gguf_name is not None, name
        kind, data = gguf.GGMLQuantizationType.F32, values
        if data.dtype == np.uint8:
            kind = quant
        elif _packs(gguf_name, data, quant):
            kind, data = quant, gguf.quants.quantize(data, quant)
        writer.add_tensor(gguf_name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _packs(name: str, data: np.ndarray, quant: gguf.GGMLQuantizationType) -> bool:
    if data.ndim < 2 or name.endswith(".bias") or name.endswith(_ALWAYS_FLOAT):
        return False
    return data.shape[-1] % gguf.GGML_QUANT_SIZES[quant][0] == 0


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _converted(tensors: Mapping[str, np.ndarray], family: str, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What the converters make of a checkpoint's tensors: other names, rows in another order, experts stacked."""
    found: dict[str, np.ndarray] = {}
    for name, values in _stacked(tensors).items():
        if name.endswith("kv_b_proj.weight"):
            found |= _halves(name, values, config)
            continue
        if name.endswith("shared_mlp.input_linear.weight"):
            block, halves = f"blk.{name.split('.')[2]}", np.split(values, 2)
            found |= {
                f"{block}.ffn_{part}_shexp.weight": half for part, half in zip(("gate", "up"), halves, strict=True)
            }
            continue
        for ours, theirs in _OTHER_NAMES:
            name = name.replace(ours, theirs)
        found[f"{name}.weight" if name.endswith("sinks") else name] = changed(name, values, family, config)
    return found


def _stacked(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each expert's [N, K] → of all [E, N, K], in the order of their numbers."""
    found: dict[str, Any] = {}
    for name in sorted(tensors, key=lambda n: [int(p) if p.isdecimal() else p for p in re.split(r"(?<=\.)(\d+)(?=\.)", n)]):  # fmt: skip
        if parts := _STACKED.fullmatch(name):
            found.setdefault(f"{parts[1]}.{parts[2]}", []).append(tensors[name])
        else:
            found[name] = tensors[name]
    return {name: np.stack(values) if isinstance(values, list) else values for name, values in found.items()}


def _halves(name: str, values: np.ndarray, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Of a latent's projection: what makes keys, turned round, and what makes values."""
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    heads = values.reshape(config["num_attention_heads"], nope + value, -1)
    keys = np.ascontiguousarray(heads[:, :nope].swapaxes(1, 2))
    return {name.replace("kv_b", "k_b"): keys, name.replace("kv_b", "v_b"): np.ascontiguousarray(heads[:, nope:])}


def changed(name: str, values: np.ndarray, family: str, config: Mapping[str, Any]) -> np.ndarray:
    """The order of rows in llama's queries and keys, one added to Gemma's norms."""
    if family.startswith("Gemma") and name.endswith("norm.weight"):
        return values + np.float32(1)
    if "moe_statics" in name:  # of which transformers has a matrix of one row
        return values.reshape(1, -1)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(
        name.split(".")[-2] if "." in name else ""
    )
    if family in INTERLEAVED and heads:
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
    return values


def _factors(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A long rope's, which are tensors in the file."""
    rope = config["rope_parameters"]
    found = {name: rope[f"{name}_factor"] for name in ("long", "short") if f"{name}_factor" in rope}
    return {f"rope_factors_{name}.weight": np.array(values, np.float32) for name, values in found.items()}
