"""A GGUF file of a Hugging Face model, written as llama.cpp's converters do, with the `gguf` package's own tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

ARCHES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "Gemma2ForCausalLM": gguf.MODEL_ARCH.GEMMA2,
    "Gemma3ForCausalLM": gguf.MODEL_ARCH.GEMMA3,
}
SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "tie_word_embeddings": False,
}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "final_logit_softcapping": 20.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], **SMALL},
    "llama-tied": {"architectures": ["LlamaForCausalLM"], **SMALL, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama-biases": {"architectures": ["LlamaForCausalLM"], **SMALL, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], **SMALL},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], **SMALL, "head_dim": 32},
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], **SMALL, **_GEMMA, "attn_logit_softcapping": 30.0, "tie_word_embeddings": True},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], **SMALL, **_GEMMA, "num_hidden_layers": 7, "rope_local_base_freq": 500.0},
}  # fmt: skip


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    keys: Mapping[str, Any] = {},
) -> Path:
    """`keys`: more metadata, by full name. Matrices become `quant` where their rows fit its blocks, or are its bytes."""
    arch = ARCHES[config["architectures"][0]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _metadata(writer, config)
    for key, value in keys.items():
        _add(writer, key, value)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, values in weights.items():
        data, kind = _converted(name, values, config), gguf.GGMLQuantizationType.F32
        if data.dtype == np.uint8:
            kind = quant
        elif data.ndim == 2 and data.shape[1] % gguf.GGML_QUANT_SIZES[quant][0] == 0:
            kind, data = quant, gguf.quants.quantize(data, quant)
        gguf_name = "rope_freqs.weight" if name == "rope_freqs" else names.get_name(name, (".weight", ".bias"))
        writer.add_tensor(gguf_name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if "Llama" in config["architectures"][0]:
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(config["vocab_size"])
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])
    if "attn_logit_softcapping" in config:
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if "final_logit_softcapping" in config:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if "rope_local_base_freq" in config:
        writer.add_float32(gguf.Keys.Rope.FREQ_BASE_SWA.format(arch=writer.arch), config["rope_local_base_freq"])


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


def _converted(name: str, values: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """What the converters change: the order of rows in llama's queries and keys, one added to Gemma's norms."""
    arch = config["architectures"][0]
    if arch.startswith("Gemma") and name.endswith("norm.weight"):
        return values + np.float32(1)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(
        name.split(".")[-2] if "." in name else ""
    )
    if arch.startswith("Llama") and heads:
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
    return values
