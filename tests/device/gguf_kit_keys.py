"""config.json → GGUF metadata, as llama.cpp's converters write it: what all share, then what each adds or leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]
Keys = dict[str, Any]

# config.json's key → the metadata's, where the value stays as it is.
_SHARED = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "num_local_experts": "expert_count",
    "num_experts": "expert_count",
    "n_routed_experts": "expert_count",
    "moe_num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_k": "expert_used_count",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}
_HEADS = ("attention.key_length", "attention.value_length")


def metadata(family: str, arch: str, config: Config) -> Keys:
    """With the architecture's prefix."""
    found = {ours: config[key] for key, ours in _SHARED.items() if key in config}
    if "head_dim" in config:
        found |= dict.fromkeys(_HEADS, config["head_dim"])
    if config.get("scoring_func") == "sigmoid":
        found["expert_gating_func"] = 2
    if family not in ("Gemma", "Gemma2"):
        found |= _rope(config)
    found = _OWN[family](config, found) if family in _OWN else found
    return {f"{arch}.{key}": value for key, value in found.items()}


def _rope(config: Config) -> Keys:
    rope = config["rope_parameters"]
    full, local = rope.get("full_attention", rope), rope.get("sliding_attention")
    found: Keys = {"rope.freq_base": full["rope_theta"]}
    if local is not None:
        found["rope.freq_base_swa"] = local["rope_theta"]
    if full["rope_type"] == "yarn":
        names = {"factor": "factor", "original_max_position_embeddings": "original_context_length"}
        names |= {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "attention_factor": "yarn_attn_factor"}
        found |= {"rope.scaling.type": "yarn"}
        found |= {f"rope.scaling.{ours}": full[key] for key, ours in names.items() if key in full}
    return found


def _llama(config: Config, found: Keys) -> Keys:
    dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return {**found, "vocab_size": config["vocab_size"], "rope.dimension_count": dim}


def _granite(config: Config, found: Keys) -> Keys:
    scales = {
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    }
    shared = {"expert_shared_feed_forward_length": n} if (n := config.get("shared_intermediate_size")) else {}
    return {**_llama(config, found), **scales, **shared}


def _gemma(config: Config, found: Keys) -> Keys:
    capped = {k: config[k] for k in ("attn_logit_softcapping", "final_logit_softcapping") if k in config}
    window = {"attention.sliding_window": config["sliding_window"]} if "sliding_window" in config else {}
    return {**found, **capped, **window}


def _phi3(config: Config, found: Keys) -> Keys:
    rope = config["rope_parameters"]
    dim = int(rope.get("partial_rotary_factor", 1.0) * config["hidden_size"]) // config["num_attention_heads"]
    original = config["original_max_position_embeddings"]
    longer = config["max_position_embeddings"] / original
    factor = {"rope.scaling.attn_factor": math.sqrt(1 + math.log(longer) / math.log(original))}
    return {
        **found,
        "rope.dimension_count": dim,
        "rope.scaling.original_context_length": original,
        "attention.sliding_window": config["sliding_window"] or 0,
        **(factor if rope["rope_type"] == "longrope" else {}),
    }


def _olmo3(config: Config, found: Keys) -> Keys:
    windowed = [(i + 1) % 4 != 0 for i in range(config["num_hidden_layers"])]
    pattern = {"attention.sliding_window_pattern": windowed}
    return {**found, "attention.sliding_window": config["sliding_window"], **pattern}


def _exaone4(config: Config, found: Keys) -> Keys:
    found = {**found, "vocab_size": config["vocab_size"]}
    return _olmo3(config, found) if config["sliding_window"] else found


def _cohere(config: Config, found: Keys) -> Keys:
    return {**found, "logit_scale": config["logit_scale"], "rope.scaling.type": "none"}


def _cohere2(config: Config, found: Keys) -> Keys:
    own = {"vocab_size": config["vocab_size"], "rope.dimension_count": config["head_dim"]}
    return {**_cohere(config, found), **own, "attention.sliding_window": config["sliding_window"]}


def _glm4(config: Config, found: Keys) -> Keys:
    share = config["rope_parameters"]["partial_rotary_factor"]
    return {**found, "rope.dimension_count": int(config["head_dim"] * share)}


def _glm4moe(config: Config, found: Keys) -> Keys:
    ahead = config["num_nextn_predict_layers"]
    counted = {"block_count": config["num_hidden_layers"] + ahead, "nextn_predict_layers": ahead}
    return {**_glm4(config, found), **_chosen(config), **counted, "expert_gating_func": 2}


def _chosen(config: Config) -> Keys:
    renormalise = config.get("norm_topk_prob")
    return {
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "leading_dense_block_count": config["first_k_dense_replace"],
        "expert_weights_scale": config["routed_scaling_factor"],
        **({"expert_weights_norm": True} if renormalise else {}),
    }


def _gpt_oss(config: Config, found: Keys) -> Keys:
    inner = {"expert_feed_forward_length": config["intermediate_size"]}
    return {**found, **inner, "attention.sliding_window": config["sliding_window"]}


def _qwen_moe(config: Config, found: Keys) -> Keys:
    names = {
        "moe_intermediate_size": "expert_feed_forward_length",
        "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    }
    return {**found, **{ours: config[key] for key, ours in names.items() if key in config}}


def _dots1(config: Config, found: Keys) -> Keys:
    return {**found, **_chosen(config)}


def _ernie(config: Config, found: Keys) -> Keys:
    return {
        **found,
        "interleave_moe_layer_step": config["moe_layer_interval"],
        "leading_dense_block_count": config["moe_layer_start_index"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["moe_num_shared_experts"],
        "expert_shared_feed_forward_length": config["intermediate_size"] // config["num_key_value_heads"],
    }


def _minimax(config: Config, found: Keys) -> Keys:
    own = {"expert_feed_forward_length": config["intermediate_size"], "rope.dimension_count": config["rotary_dim"]}
    return {**found, **own}


def _none_chosen(config: Config) -> Keys:
    return {
        "expert_feed_forward_length": config["intermediate_size"],
        "expert_shared_count": 0,
        "leading_dense_block_count": config["num_hidden_layers"],
    }


def _deepseek(config: Config, found: Keys) -> Keys:
    rank, turned = config["kv_lora_rank"], config["qk_rope_head_dim"]
    log = config["rope_parameters"].get("mscale_all_dim")
    experts = "n_routed_experts" in config
    return {
        **found,
        **(_chosen(config) if experts else _none_chosen(config)),
        "attention.head_count_kv": 1,
        "vocab_size": config["vocab_size"],
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": config["qk_nope_head_dim"] + turned,
        "attention.value_length_mla": config["v_head_dim"],
        "rope.dimension_count": turned,
        **({"attention.q_lora_rank": config["q_lora_rank"]} if config["q_lora_rank"] else {}),
        **({"rope.scaling.yarn_log_multiplier": 0.1 * log} if log else {}),
    }


_OWN: Mapping[str, Callable[[Config, Keys], Keys]] = {
    "Cohere": _cohere,
    "Cohere2": _cohere2,
    "DeepseekV2": _deepseek,
    "DeepseekV3": _deepseek,
    "Dots1": _dots1,
    "Ernie4_5_Moe": _ernie,
    "Exaone4": _exaone4,
    "Gemma": _gemma,
    "Gemma2": _gemma,
    "Gemma3": _gemma,
    "Glm4": _glm4,
    "Glm4Moe": _glm4moe,
    "GptOss": _gpt_oss,
    "Granite": _granite,
    "GraniteMoe": _granite,
    "GraniteMoeShared": _granite,
    "Llama": _llama,
    "MiniMaxM2": _minimax,
    "Mixtral": _llama,
    "Olmo3": _olmo3,
    "Phi3": _phi3,
    "Qwen2Moe": _qwen_moe,
    "Qwen3Moe": _qwen_moe,
    "SmolLM3": _llama,
    "Youtu": _deepseek,
}
