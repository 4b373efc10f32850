"""AWQ, GPTQ and compressed-tensors checkpoints written bit by bit from the formats' descriptions, with the values their formulas give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.device.model_kit import dummy, shapes

LAYERS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head",
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """Codes [K, N], zero points and scales [G, N], the group of each column [K]: the formats' own orientation."""

    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray
    bits: int = 4

    def values(self) -> np.ndarray:
        """[N, K], by the textbook."""
        wide = self.codes.astype(np.float64) - self.zeros[self.groups]
        return (self.scales.astype(np.float64)[self.groups] * wide).T.astype(np.float32)


def layer(
    rows: int, columns: int, group: int = 128, *, bits: int = 4, middle: bool = False, shuffled: int = 0, seed: int = 0
) -> Layer:
    """A random one. `middle`: symmetric; `shuffled`: seed of an act-order (0: none)."""
    draw = np.random.default_rng(seed)
    group = columns if group == -1 else min(group, columns)
    count = -(-columns // group)
    groups = np.arange(columns) // group
    if shuffled:
        groups = np.random.default_rng(shuffled).permutation(groups)
    top = 1 << bits
    zeros = np.full((count, rows), top // 2) if middle else draw.integers(1, top, (count, rows))
    scales = ((draw.random((count, rows)) + 0.5) * 2 / top / columns**0.5).astype(np.float16)
    return Layer(draw.integers(0, top, (columns, rows)), zeros, scales, groups, bits)


def awq(made: Layer) -> dict[str, np.ndarray]:
    return {"qweight": _awq_words(made.codes), "qzeros": _awq_words(made.zeros), "scales": made.scales}


def gptq(made: Layer, less: int = 1) -> dict[str, np.ndarray]:
    zeros = (made.zeros - less) % (1 << made.bits)
    return {
        "qweight": _stream_words(made.codes.T, made.bits).T.copy(),
        "qzeros": _stream_words(zeros, made.bits),
        "scales": made.scales,
        "g_idx": made.groups.astype(np.int32),
    }


def compressed(made: Layer, symmetric: bool, scales: type = np.float32) -> dict[str, np.ndarray]:
    zeros = {} if symmetric else {"weight_zero_point": _stream_words(made.zeros, made.bits).T.copy()}
    listed = {} if (np.diff(made.groups) >= 0).all() else {"weight_g_idx": made.groups.astype(np.int32)}
    return {
        "weight_packed": _stream_words(made.codes.T, made.bits),
        "weight_scale": made.scales.T.astype(scales),
        "weight_shape": np.array(made.codes.T.shape, np.int64),
        **zeros,
        **listed,
    }  # fmt: skip


def compressed_config(bits: int, group: int, symmetric: bool, **more: Any) -> dict[str, Any]:
    """quantization_config."""
    size = {"strategy": "channel", "group_size": None} if group == -1 else {"strategy": "group", "group_size": group}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, **size, **more}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "kv_cache_scheme": None, "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
    }  # fmt: skip


def _awq_words(values: np.ndarray) -> np.ndarray:
    words = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
    for column in range(values.shape[1]):
        nibble = [0, 2, 4, 6, 1, 3, 5, 7].index(column % 8)
        words[:, column // 8] |= values[:, column].astype(np.uint32) << np.uint32(4 * nibble)
    return words.view(np.int32)


def _stream_words(values: np.ndarray, bits: int) -> np.ndarray:
    """Each row as one long number, its integers from the lowest bit on."""
    rows = [sum(int(v) << (bits * i) for i, v in enumerate(row)) for row in values]
    size = values.shape[1] * bits // 8
    return np.array([np.frombuffer(row.to_bytes(size, "little"), "<i4") for row in rows])


@dataclass
class Packed:
    """A model's tensors as its files have them, and as they are meant."""

    quantization: dict[str, Any]
    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    files: dict[str, np.ndarray] = field(default_factory=dict)
    meant: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, path: Path, *, config: Mapping[str, Any] | None = None) -> Path:
        path.mkdir(exist_ok=True)
        whole = {**self.config, "quantization_config": self.quantization} if config is None else dict(config)
        (path / "config.json").write_text(json.dumps(whole))
        save_file(
            {name: np.ascontiguousarray(values) for name, values in self.files.items()}, path / "model.safetensors"
        )
        return path


def model(
    method: str,
    quantization: Mapping[str, Any] = {},
    *,
    keep: tuple[str, ...] = ("lm_head",),
    config: Mapping[str, Any] = {},
    **how: Any,
) -> Packed:
    """A tiny model, a Llama if `config` doesn't say otherwise, whose layers but `keep` are packed; `how`: what layer() takes."""
    sizes = {"bits": how.get("bits", 4), "group_size": how.get("group", 128)}
    packed = Packed({"quant_method": method, **sizes, **quantization}, {**CONFIG, **config})
    source = dummy(packed.config, seed=3)
    for i, (name, shape) in enumerate(sorted(shapes(packed.config).items())):
        stem = name.removesuffix(".weight")
        if stem.split(".")[-1] not in LAYERS or stem.split(".")[-1] in keep:
            values = source.vector(name) if len(shape) == 1 else source.stored(name).data
            packed.files[name] = packed.meant[name] = values
            continue
        made = layer(*shape, seed=i, **how)
        v2 = quantization.get("checkpoint_format") == "gptq_v2"
        if method == "compressed-tensors":
            parts = compressed(made, bool(how.get("middle")))
        else:
            parts = awq(made) if method == "awq" else gptq(made, 1 - v2)
        packed.files |= {f"{stem}.{part}": values for part, values in parts.items()}
        packed.meant[name] = made.values()
    return packed
