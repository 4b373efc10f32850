"""Architectures with mixtures of experts → the words of config.json, and their tensors' names.

How experts are weighed is often known to a file's readers, not written in it; what is said here of a family is what its
published configurations say.
"""

from __future__ import annotations

from radixmill.core.errors import BadModel
from radixmill.device.loader.gguf_families.common import (
    Words,
    dense_layers,
    expert_inner,
    experts,
    fixed,
    layer_types,
    leading_dense,
    part_heads,
    rms_norms,
    rope,
    sizes,
)
from radixmill.device.loader.gguf_families.dense import multipliers, pre_norm
from radixmill.device.loader.gguf_families.keys import Metadata
from radixmill.device.loader.gguf_families.names import EXPERTS, Names

SOFTMAX, SIGMOID = 1, 2  # expert_gating_func
GLM_FLASH = 154_880  # tokens in the vocabulary of GLM-4.7-Flash, whose older files do not say how experts are weighed


def qwen2moe(keys: Metadata) -> Words:
    return {
        **pre_norm(keys),
        **experts(keys, "num_experts"),
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "hidden_act": "silu",
        "moe_intermediate_size": expert_inner(keys),
        "shared_expert_intermediate_size": expert_inner(keys, "ffn_down_shexp"),
        "norm_topk_prob": keys.flag("expert_weights_norm", False),
        "mlp_only_layers": dense_layers(keys),
    }


def qwen3moe(keys: Metadata) -> Words:
    return {
        **pre_norm(keys),
        **experts(keys, "num_experts"),
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_act": "silu",
        "attention_bias": keys.has("blk.0.attn_q.bias"),
        "moe_intermediate_size": expert_inner(keys),
        "norm_topk_prob": keys.flag("expert_weights_norm", True),
        "mlp_only_layers": dense_layers(keys),
    }


def olmoe(keys: Metadata) -> Words:
    return {
        **pre_norm(keys),
        **experts(keys, "num_experts"),
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "hidden_act": "silu",
        "norm_topk_prob": keys.flag("expert_weights_norm", False),
    }


def granitemoe(keys: Metadata) -> Words:
    """With a block beside the experts that every token goes through, or without."""
    common = {**pre_norm(keys), **multipliers(keys), **experts(keys, "num_local_experts"), "hidden_act": "silu"}
    if not keys.whole("expert_shared_feed_forward_length", 0, least=0):
        return {**common, "architectures": ["GraniteMoeForCausalLM"], "model_type": "granitemoe"}
    shared = {"shared_intermediate_size": keys.whole("expert_shared_feed_forward_length")}
    return {**common, **shared, "architectures": ["GraniteMoeSharedForCausalLM"], "model_type": "granitemoeshared"}


def gpt_oss(keys: Metadata) -> Words:
    """YaRN's ramp is not rounded to whole dimensions in this family; the file doesn't say."""
    found = {**pre_norm(keys), **experts(keys, "num_local_experts")}
    if "rope_scaling" in found and found["rope_scaling"]["rope_type"] == "yarn":
        found["rope_scaling"] = {**found["rope_scaling"], "truncate": False}
    return {
        **found,
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_act": "silu",
        "intermediate_size": expert_inner(keys),
        "attention_bias": True,
        "sliding_window": keys.whole("attention.sliding_window"),
        "layer_types": layer_types(keys, every=2),
    }


def glm4moe(keys: Metadata) -> Words:
    heads, share = part_heads(keys)
    fixed(keys, "expert_gating_func", SIGMOID)
    return {
        **sizes(keys),
        **heads,
        **rms_norms(keys),
        **rope(keys),
        **chosen(keys),
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "hidden_act": "silu",
        "attention_bias": keys.has("blk.0.attn_q.bias"),
        "use_qk_norm": keys.has("blk.0.attn_q_norm.weight"),
        "partial_rotary_factor": share,
        "num_nextn_predict_layers": keys.whole("nextn_predict_layers", 0, least=0),
    }


def dots1(keys: Metadata) -> Words:
    fixed(keys, "expert_gating_func", SIGMOID)
    return {
        **pre_norm(keys),
        **chosen(keys),
        "architectures": ["Dots1ForCausalLM"],
        "model_type": "dots1",
        "hidden_act": "silu",
        "attention_bias": keys.has("blk.0.attn_q.bias"),
        "sliding_window": None,
    }


def ernie4_5_moe(keys: Metadata) -> Words:
    keys.inert(
        "expert_shared_feed_forward_length"
    )  # the converters' guess; the tensors are as wide as their count says
    return {
        **pre_norm(keys),
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "model_type": "ernie4_5_moe",
        "hidden_act": "silu",
        "moe_num_experts": keys.whole("expert_count"),
        "moe_k": keys.whole("expert_used_count"),
        "moe_intermediate_size": expert_inner(keys),
        "moe_num_shared_experts": keys.whole("expert_shared_count", 0, least=0),
        "moe_layer_interval": keys.whole("interleave_moe_layer_step", 1),
        "moe_layer_start_index": keys.whole("leading_dense_block_count", 0, least=0),
        "moe_layer_end_index": -1,
    }


def minimax_m2(keys: Metadata) -> Words:
    heads, share = part_heads(keys)
    fixed(keys, "expert_gating_func", SIGMOID)
    return {
        **sizes(keys),
        **heads,
        **rms_norms(keys),
        **rope(keys),
        **experts(keys, "num_local_experts"),
        "architectures": ["MiniMaxM2ForCausalLM"],
        "model_type": "minimax_m2",
        "hidden_act": "silu",
        "intermediate_size": expert_inner(keys),
        "rotary_dim": round(share * heads["head_dim"]),
    }


def deepseek2(keys: Metadata) -> Words:
    """DeepSeek-V2, whose scores are a softmax; V3, R1, Kimi K2 and GLM-4.7-Flash, whose are sigmoids; Youtu without experts.

    Older files have keys and values expanded (attn_kv_b, key_length of a whole head), newer ones a latent.
    """
    fixed(keys, "expert_gating_func", SOFTMAX, SIGMOID)
    found = {
        **sizes(keys),
        **rms_norms(keys),
        **rope(keys),
        **_latent(keys),
        "hidden_act": "silu",
        "attention_bias": keys.has("blk.0.attn_kv_a_mqa.bias"),
    }
    if "rope_scaling" in found and (scale := keys.get("rope.scaling.yarn_log_multiplier")) is not None:
        scale = round(10 * keys.real("rope.scaling.yarn_log_multiplier"), 6) if scale else 0.0  # kept times 0.1
        # The file keeps mscale_all_dim alone; mscale is its equal in all published models.
        found["rope_scaling"] = {**found["rope_scaling"], "mscale": scale, "mscale_all_dim": scale}
    if not keys.whole("expert_count", 0, least=0):
        keys.inert(
            "expert_feed_forward_length", "expert_shared_count", "expert_used_count", "leading_dense_block_count"
        )
        return {**found, "architectures": ["YoutuForCausalLM"], "model_type": "youtu"}
    found |= chosen(keys)
    flash = found["vocab_size"] == GLM_FLASH and found["num_hidden_layers"] in (47, 48)
    gating = keys.get("expert_gating_func")
    if gating == SIGMOID or (gating is None and flash):
        ahead = {"num_nextn_predict_layers": keys.whole("nextn_predict_layers", 0, least=0)}
        found |= {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}
        return {**found, "scoring_func": "sigmoid", "topk_method": "noaux_tc", **ahead}
    limited = "group_limited_greedy" if found["n_group"] > 1 else "greedy"
    found |= {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2"}
    return {**found, "scoring_func": "softmax", "topk_method": limited}


def _latent(keys: Metadata) -> Words:
    rank, turned = keys.whole("attention.kv_lora_rank"), keys.whole("rope.dimension_count")
    whole, value = keys.whole("attention.key_length"), keys.whole("attention.value_length")
    if keys.get("attention.key_length_mla") is not None:
        if (whole, value) != (rank + turned, rank):
            raise BadModel(
                f"{keys.file.path}: keys of {whole} and values of {value} are no latent of {rank} + {turned}"
            )
        whole, value = keys.whole("attention.key_length_mla"), keys.whole("attention.value_length_mla")
    if whole <= turned:
        raise BadModel(f"{keys.file.path}: {turned} of a head's {whole} dimensions are rotated, some must not be")
    q_rank = keys.whole("attention.q_lora_rank", 0, least=0) or None
    return {
        "num_key_value_heads": keys.whole("attention.head_count"),
        "kv_lora_rank": rank,
        "q_lora_rank": q_rank,
        "qk_nope_head_dim": whole - turned,
        "qk_rope_head_dim": turned,
        "v_head_dim": value,
    }


def chosen(keys: Metadata) -> Words:
    """How DeepSeek's kin choose experts, and what lies beside these."""
    return {
        **experts(keys, "n_routed_experts"),
        "n_group": keys.whole("expert_group_count", 1),
        "topk_group": keys.whole("expert_group_used_count", 1),
        "n_shared_experts": keys.whole("expert_shared_count", 0, least=0),
        "moe_intermediate_size": expert_inner(keys),
        "first_k_dense_replace": leading_dense(keys),
        "routed_scaling_factor": keys.real("expert_weights_scale", 1.0),
        "norm_topk_prob": keys.flag("expert_weights_norm", False),
    }


_SHARED: Names = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
}
QWEN2MOE: Names = {
    **EXPERTS,
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
ERNIE4_5_MOE: Names = {**EXPERTS, **_SHARED, "exp_probs_b.bias": "mlp.moe_statics.e_score_correction_bias"}
MINIMAX_M2: Names = {**EXPERTS, "exp_probs_b.bias": "mlp.e_score_correction_bias"}
GRANITEMOE: Names = {
    **EXPERTS,
    "ffn_gate_inp": "mlp.router.layer",
    "ffn_gate_shexp": "shared_mlp.gate_proj",
    "ffn_up_shexp": "shared_mlp.up_proj",
    "ffn_down_shexp": "shared_mlp.output_linear",
}
GPT_OSS: Names = {
    **EXPERTS,
    "ffn_gate_inp": "mlp.router",
    "attn_sinks.weight": "self_attn.sinks",
    "post_attention_norm": "post_attention_layernorm",
}
DOTS1: Names = {**EXPERTS, **_SHARED}
GLM4MOE: Names = {**DOTS1, "post_attention_norm": "post_attention_layernorm"}
DEEPSEEK2: Names = {
    **EXPERTS,
    **_SHARED,
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.kv_b_proj.k.{h}",
    "attn_v_b": "self_attn.kv_b_proj.v.{h}",
}
