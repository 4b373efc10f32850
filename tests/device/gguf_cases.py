"""Tiny configurations of every GGUF architecture, in the words of config.json, as transformers saves them.

The numbers bite: windows are shorter than the tests' prompt, groups more than one, factors differ from 1, matrices' rows
fit blocks of 32.
"""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "vocab_size": 264,  # what a tokenizer of bytes and six merges has
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    "tie_word_embeddings": False,
}
_TEN = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}  # what files leave out
_TIED = {"tie_word_embeddings": True}
_HEADS = {"head_dim": 32}
_GEMMA = {**_TEN, **_TIED, **_HEADS}
_GEMMA2 = {**_GEMMA, "query_pre_attn_scalar": 32, "sliding_window": 6}
_PHI = {"original_max_position_embeddings": 32, "sliding_window": None}
_COHERE = {**_TIED, "layer_norm_eps": 1e-4, "logit_scale": 0.25}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 2}
_GRANITE = {"embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.4, "logits_scaling": 2.0}
_HEADS_OF_LATENTS = {
    "kv_lora_rank": 32, "q_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
_DEEPSEEK = {
    "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "n_shared_experts": 2, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7,
    **_HEADS_OF_LATENTS,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 50000.0, "factor": 4.0, "original_max_position_embeddings": 32}


def _long(share: float, pairs: int) -> dict[str, Any]:
    """A long rope. The files tell what it multiplies cos and sin by: sqrt(1 + ln(128 / 32) / ln(32))."""
    factors = {"short_factor": [1.0 + i / 8 for i in range(pairs)], "long_factor": [1.5 + i for i in range(pairs)]}
    return {"rope_type": "longrope", "rope_theta": 50000.0, "partial_rotary_factor": share, **factors,
            "original_max_position_embeddings": 32}  # fmt: skip


def _case(architecture: str, *more: dict[str, Any], **own: Any) -> dict[str, Any]:
    numbers = dict(SMALL)
    for part in (*more, own):
        numbers |= part
    if "layer_norm_eps" in numbers:
        del numbers["rms_norm_eps"]
    return {"architectures": [f"{architecture}ForCausalLM"], **numbers}


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _case("Llama", head_dim=16),
    "llama-tied": _case("Llama", _TIED, head_dim=16, num_key_value_heads=4),
    "llama-biases": _case("Llama", head_dim=16, attention_bias=True, mlp_bias=True),
    "mixtral": _case("Mixtral", _LOCAL),
    "qwen2": _case("Qwen2"),
    "qwen3": _case("Qwen3", _HEADS),
    "qwen2moe": _case("Qwen2Moe", _EXPERTS, shared_expert_intermediate_size=64, norm_topk_prob=False),
    "qwen3moe": _case("Qwen3Moe", _EXPERTS, _HEADS, norm_topk_prob=True),
    "gemma": _case("Gemma", _GEMMA),
    "gemma2": _case("Gemma2", _GEMMA2, attn_logit_softcapping=30.0, final_logit_softcapping=20.0),
    "gemma3": _case("Gemma3", _GEMMA2, num_hidden_layers=7, rope_parameters={
        "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }),
    "phi3": _case("Phi3", _PHI),
    "phi3-window": _case("Phi3", {**_PHI, "sliding_window": 6}),
    "phi3-long": _case("Phi3", _PHI, rope_parameters=_long(1.0, 8)),
    "phi3-part": _case("Phi3", _PHI, _TIED, rope_parameters=_long(0.5, 4)),
    "olmo2": _case("Olmo2"),
    "olmo3": _case("Olmo3", num_hidden_layers=5, sliding_window=6, rope_parameters={
        "full_attention": _YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0},
    }),
    "granite": _case("Granite", _GRANITE),
    "seed-oss": _case("SeedOss", _HEADS, attention_bias=True, attention_out_bias=False, mlp_bias=False),
    "ernie4_5": _case("Ernie4_5", _HEADS, use_bias=False),
    "exaone4": _case("Exaone4", num_hidden_layers=5, head_dim=16, sliding_window=6, sliding_window_pattern=4),
    "exaone4-whole": _case("Exaone4", head_dim=16, sliding_window=None, layer_types=["full_attention"] * 3),
    "smollm3": _case("SmolLM3", _TIED, num_hidden_layers=5),
    "command-r": _case("Cohere", _COHERE),
    "command-r-norms": _case("Cohere", _COHERE, use_qk_norm=True),
    "cohere2": _case("Cohere2", _COHERE, rotary_pct=1.0, num_hidden_layers=5, head_dim=16, sliding_window=6),
    "glm4": _case("Glm4", head_dim=16, attention_bias=True, rope_parameters={
        "rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5,
    }),
    "glm4moe": _case("Glm4Moe", _HEADS, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=32,
        first_k_dense_replace=1, n_shared_experts=1, n_group=1, topk_group=1, routed_scaling_factor=1.5,
        norm_topk_prob=True, use_qk_norm=True, attention_bias=True, num_nextn_predict_layers=1,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5},
    ),
    "gpt-oss": _case("GptOss", _HEADS, _LOCAL, num_hidden_layers=4, sliding_window=6, intermediate_size=64,
        rope_parameters={**_YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    ),
    "olmoe": _case("Olmoe", num_key_value_heads=4, num_experts=6, num_experts_per_tok=2, norm_topk_prob=False),
    "granitemoe": _case("GraniteMoe", _GRANITE, _LOCAL),
    "granitemoe-shared": _case("GraniteMoeShared", _GRANITE, _LOCAL, shared_intermediate_size=64),
    "dots1": _case("Dots1", _HEADS, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=32,
        first_k_dense_replace=1, n_shared_experts=2, n_group=4, topk_group=2, routed_scaling_factor=1.5,
        norm_topk_prob=True, scoring_func="sigmoid", sliding_window=None,
    ),
    "ernie4_5-moe": _case("Ernie4_5_Moe", intermediate_size=128, moe_num_experts=6, moe_k=2, moe_intermediate_size=32, use_bias=False,
        moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_interval=1, moe_layer_end_index=-1,
    ),
    "minimax-m2": _case("MiniMaxM2", _LOCAL, _HEADS, scoring_func="sigmoid", rotary_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5},
    ),
    "deepseek2": _case("DeepseekV2", _DEEPSEEK, topk_method="group_limited_greedy"),
    "deepseek2-lite": _case("DeepseekV2", {**_DEEPSEEK, "q_lora_rank": None, "n_group": 1, "topk_group": 1},
        topk_method="greedy", rope_parameters={**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    ),
    "deepseek3": _case("DeepseekV3", _DEEPSEEK, scoring_func="sigmoid", norm_topk_prob=True,
        rope_parameters={**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, num_nextn_predict_layers=0,
    ),
    "youtu": _case("Youtu", _HEADS_OF_LATENTS, _TIED, num_key_value_heads=4),
}  # fmt: skip


def transformers_name(config: dict[str, Any]) -> str:
    """What transformers calls the family, before `Config` and `ForCausalLM`."""
    name = str(config["architectures"][0]).removesuffix("ForCausalLM")
    return f"{name}Text" if name == "Gemma3" else name


def words(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers' configuration is made of."""
    return {"pad_token_id": 0, **{key: value for key, value in config.items() if key != "architectures"}}
