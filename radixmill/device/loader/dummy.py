"""Random weights for a configuration: for measuring speed, and for tests that need a model but no particular one."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.loader.checkpoint import Lying, check_shape, missing

# What a Gemma 3 configuration may leave out.
_GEMMA3 = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


class DummyCheckpoint:
    """See Checkpoint. Each tensor depends on the seed and its own name alone, so any part can be drawn again.

    Matrices are uniform with standard deviation 1 / sqrt(K), so that activations keep their size; kind by the
    configuration's dtype. Norms are near the value that changes nothing, biases small.
    """

    norms_include_one = False

    def __init__(self, config: Mapping[str, Any], seed: int = 0, eos_ids: tuple[int, ...] = ()) -> None:
        self.config, self.seed, self.eos_ids = dict(config), seed, eos_ids
        self._shapes = shapes(self.config)
        self.names = frozenset(self._shapes)
        kind = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
        self._kind = {"bfloat16": "BF16", "float16": "F16"}.get(kind, "F32")
        text = json.dumps([self.config, seed], sort_keys=True, default=str)
        self.fingerprint = "dummy-" + hashlib.sha256(text.encode()).hexdigest()

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        rows, columns = self._shape(name, shape, 2)
        values = self._uniform(name, rows * columns).reshape(rows, columns)
        values *= np.float32((3 / columns) ** 0.5)
        if self._kind == "F16":
            return Stored("F16", (rows, columns), values.astype(np.float16))
        if self._kind == "BF16":
            return Stored("BF16", (rows, columns), (values.view(np.uint32) >> 16).astype(np.uint16))
        return Stored("F32", (rows, columns), values)

    def vector(self, name: str, size: int | None = None) -> NDArray[np.float32]:
        (length,) = self._shape(name, None if size is None else (size,), 1)
        small = self._uniform(name, length) * np.float32(0.1)
        centre = 1.0 if name.endswith("norm.weight") and not _is_gemma(self.config) else 0.0
        return small + np.float32(centre)

    def lying(self) -> Iterable[Lying]:
        size = 4 if self._kind == "F32" else 2
        return (Lying(name, self._kind, shape, prod(shape) * size) for name, shape in self._shapes.items())

    def close(self) -> None:
        """Nothing is held."""

    def _shape(self, name: str, wanted: tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
        found = self._shapes.get(name, wanted)
        if found is None:
            raise missing("a model of random weights", name)
        check_shape("random weights", name, found, wanted, rank)
        return found

    def _uniform(self, name: str, count: int) -> NDArray[np.float32]:
        """In (−1, 1), never 0."""
        draw = np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))
        values = draw.random(count, np.float32) * 2 - 1
        values[values == 0] = 0.5
        return values


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a decoder with this configuration: Llama, Qwen2, Qwen3, Gemma 2 or Gemma 3. Raises BadModel for others."""
    if isinstance(text := config.get("text_config"), Mapping):
        config = {**config, **text, "architectures": config.get("architectures")}
    sizes = _sizes(config)
    hidden, inner, dim = sizes["hidden_size"], sizes["intermediate_size"], sizes["head_dim"]
    queries, keys = sizes["num_attention_heads"] * dim, sizes["num_key_value_heads"] * dim
    block: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    block |= _extras(config, block, hidden, dim)
    vocab = (sizes["vocab_size"], hidden)
    ends: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": vocab, "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings", _is_gemma(config)):
        ends["lm_head.weight"] = vocab
    layers = range(sizes["num_hidden_layers"])
    return ends | {f"model.layers.{i}.{name}": shape for i in layers for name, shape in block.items()}


def _extras(
    config: Mapping[str, Any], block: Mapping[str, tuple[int, ...]], hidden: int, dim: int
) -> dict[str, tuple[int, ...]]:
    """What one family has in a block and Llama has not."""
    family, found = _family(config), dict[str, tuple[int, ...]]()
    biased = ["q_proj", "k_proj", "v_proj"] if family == "qwen2" or config.get("attention_bias") else []
    biased += ["o_proj"] if config.get("attention_bias") and family != "qwen2" else []
    biased += ["gate_proj", "up_proj", "down_proj"] if config.get("mlp_bias") else []
    for name, shape in block.items():
        if name.split(".")[-2] in biased:
            found[name.replace(".weight", ".bias")] = shape[:1]
    if family in ("qwen3", "gemma3"):
        found |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    if _is_gemma(config):
        found |= {"pre_feedforward_layernorm.weight": (hidden,), "post_feedforward_layernorm.weight": (hidden,)}
    return found


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if _family(config) == "gemma3":
        config = {**_GEMMA3, **config}
    sizes = {name: config.get(name) for name in names}
    if absent := [name for name, value in sizes.items() if type(value) is not int or value <= 0]:
        raise BadModel(f"config.json has no usable {', '.join(absent)}", "Random weights need every size")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    default_dim = 256 if _is_gemma(config) else 128 if _family(config) == "qwen3" else max(hidden // heads, 1)
    sizes["num_key_value_heads"] = config.get("num_key_value_heads") or heads
    sizes["head_dim"] = config.get("head_dim") or default_dim
    return {name: int(value or 0) for name, value in sizes.items()}


def _family(config: Mapping[str, Any]) -> str:
    known = {
        "LlamaForCausalLM": "llama",
        "MistralForCausalLM": "llama",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
        "Gemma2ForCausalLM": "gemma2",
        "Gemma3ForCausalLM": "gemma3",
        "Gemma3ForConditionalGeneration": "gemma3",
    }
    listed = config.get("architectures")
    name = str(listed[0]) if isinstance(listed, list) and listed else "(none)"
    if name not in known:
        raise BadModel(f"architecture {name} is not supported", f"These are: {', '.join(known)}")
    return known[name]


def _is_gemma(config: Mapping[str, Any]) -> bool:
    return _family(config).startswith("gemma")
