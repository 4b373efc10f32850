"""A tiny model of every architecture, with a kind that its matrices are packed in: none is done without one here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip

LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}
GROWING = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.3,
}  # fmt: skip
WINDOW_THEN_FULL = ["sliding_attention", "full_attention"]

Tiny = tuple[str, str, Mapping[str, Any]]  # kind, architecture, what differs from SIZES

DENSE: Mapping[str, Tiny] = {
    "llama": ("Q4_1", "LlamaForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "mistral": ("Q8_0", "MistralForCausalLM", {"sliding_window": 5}),
    "ministral3": ("Q4_0", "Ministral3ForCausalLM", {"rope_parameters": GROWING}),
    "qwen2": ("F16", "Qwen2ForCausalLM", {}),
    "qwen3": ("Q4_0", "Qwen3ForCausalLM", {}),
    "gemma2": ("F32", "Gemma2ForCausalLM", {"sliding_window": 6, "attn_logit_softcapping": 2.0}),
    "gemma3": ("Q5_0", "Gemma3ForCausalLM", {"sliding_window": 6, "sliding_window_pattern": 2}),
    "gemma": ("Q4_1", "GemmaForCausalLM", {}),
    "phi3": ("Q8_0", "Phi3ForCausalLM", {"partial_rotary_factor": 0.5, "sliding_window": 6, "rope_scaling": LONG}),
    "olmo2": ("Q4_0", "Olmo2ForCausalLM", {"attention_bias": True}),
    "olmo3": ("Q5_0", "Olmo3ForCausalLM", {"sliding_window": 6, "layer_types": WINDOW_THEN_FULL}),
    "granite": ("Q4_1", "GraniteForCausalLM", {"residual_multiplier": 0.4, "embedding_multiplier": 3.0}),
    "smollm3": ("Q8_0", "SmolLM3ForCausalLM", {"no_rope_layers": [1, 0]}),
    "cohere": ("Q4_0", "CohereForCausalLM", {"use_qk_norm": True}),
    "cohere2": ("F16", "Cohere2ForCausalLM", {"sliding_window": 6, "layer_types": WINDOW_THEN_FULL}),
    "glm": ("Q4_1", "GlmForCausalLM", {}),
    "glm4": ("Q8_0", "Glm4ForCausalLM", {}),
    "exaone4": ("Q4_0", "Exaone4ForCausalLM", {"sliding_window": 6, "sliding_window_pattern": 2}),
    "ernie4.5": ("Q5_1", "Ernie4_5ForCausalLM", {"use_bias": True}),
    "seed-oss": ("Q4_1", "SeedOssForCausalLM", {"attention_out_bias": True, "mlp_bias": True}),
    "helium": ("Q8_0", "HeliumForCausalLM", {"attention_bias": True}),
    "ministral": ("Q5_0", "MinistralForCausalLM", {"sliding_window": 6, "layer_types": WINDOW_THEN_FULL}),
    "mistral-vision": ("Q4_0", "Mistral3ForConditionalGeneration", {"sliding_window": 7}),
    "gemma3-vision": (
        "Q8_0", "Gemma3ForConditionalGeneration", {"sliding_window": 6, "sliding_window_pattern": 2, "final_logit_softcapping": 2.0},
    ),
}  # fmt: skip
EXPERTS: Mapping[str, Tiny] = {
    "mixtral": ("Q4_0", "MixtralForCausalLM", {"num_local_experts": 4, "sliding_window": 6}),
    "qwen2-moe": ("Q8_0", "Qwen2MoeForCausalLM", {
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64,
    }),
    "qwen3-moe": ("Q4_1", "Qwen3MoeForCausalLM", {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": True,
        "mlp_only_layers": [0],
    }),
    "glm4-moe": ("Q5_0", "Glm4MoeForCausalLM", {
        "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "n_group": 4, "topk_group": 2,
        "use_qk_norm": True,
    }),
    "gpt-oss": ("MXFP4", "GptOssForCausalLM", {"num_local_experts": 6, "num_experts_per_tok": 4, "sliding_window": 6}),
    "olmoe": ("F16", "OlmoeForCausalLM", {"num_experts": 6, "num_experts_per_tok": 3}),
    "granite-moe": ("Q4_0", "GraniteMoeForCausalLM", {
        "num_local_experts": 4, "residual_multiplier": 0.3, "attention_multiplier": 0.2, "logits_scaling": 3.0,
    }),
    "granite-moe-shared": ("Q8_0", "GraniteMoeSharedForCausalLM", {"num_local_experts": 4, "shared_intermediate_size": 32}),
    "ernie4-5-moe": ("Q4_1", "Ernie4_5_MoeForCausalLM", {
        "moe_num_experts": 6, "moe_k": 3, "moe_intermediate_size": 32,
    }),
    "dots1": ("Q8_0", "Dots1ForCausalLM", {
        "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1, "n_group": 2,
        "sliding_window": 6, "max_window_layers": 1,
    }),
    "minimax-m2": ("F32", "MiniMaxM2ForCausalLM", {
        "num_local_experts": 6, "num_experts_per_tok": 3, "rotary_dim": 8,
    }),
}  # fmt: skip
HEADS = {
    "num_key_value_heads": None, "head_dim": None, "q_lora_rank": 32, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32,
}  # fmt: skip
MLA = {
    **HEADS, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
}  # fmt: skip
LATENT: Mapping[str, Tiny] = {
    "deepseek-v2": (
        "Q8_0",
        "DeepseekV2ForCausalLM",
        {**MLA, "topk_method": "group_limited_greedy", "routed_scaling_factor": 2.0},
    ),
    "deepseek-v3": ("Q4_1", "DeepseekV3ForCausalLM", {**MLA}),
    "youtu": ("Q4_0", "YoutuForCausalLM", {**HEADS, "num_key_value_heads": 4}),
    "glm-lite": ("F16", "Glm4MoeLiteForCausalLM", {**MLA, "n_group": 1, "topk_group": 1}),
}

MODELS = {**DENSE, **EXPERTS, **LATENT}


def config(name: str, **more: Any) -> dict[str, Any]:
    """config.json of a tiny model; one of text and images has most of it under text_config. A key of None is absent."""
    _, architecture, own = MODELS[name]
    numbers = {k: v for k, v in {**SIZES, **own, **more}.items() if v is not None}
    if architecture.endswith("ForConditionalGeneration"):
        numbers = {"text_config": numbers, "vision_config": {}}
    return {"architectures": [architecture], **numbers}


def kind(name: str) -> str:
    return MODELS[name][0]
