"""Architectures with one feed-forward block per layer → the words of config.json, and their tensors' names."""

from __future__ import annotations

import math

from radixmill.core.errors import BadModel
from radixmill.device.loader.gguf_families.common import (
    Words,
    experts,
    fixed,
    head_dim,
    layer_norms,
    layer_types,
    layers,
    part_heads,
    query_scalar,
    rms_norms,
    rope,
    rope_scaling,
    sizes,
    whole_heads,
)
from radixmill.device.loader.gguf_families.keys import Metadata, shortest
from radixmill.device.loader.gguf_families.names import DENSE, Names


def pre_norm(keys: Metadata) -> Words:
    """What Llama and its many heirs have."""
    return {**sizes(keys), **whole_heads(keys), **rms_norms(keys), **rope(keys)}


def llama(keys: Metadata) -> Words:
    """Llama and Mistral; Mixtral where there are experts."""
    if keys.whole("expert_count", 0, least=0):
        found = {**pre_norm(keys), **experts(keys, "num_local_experts"), "sliding_window": None}
        return {**found, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu"}
    keys.inert("expert_used_count")
    biases = {"attention_bias": keys.has("blk.0.attn_q.bias"), "mlp_bias": keys.has("blk.0.ffn_gate.bias")}
    found = {**pre_norm(keys), **biases}
    return {**found, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}


def smollm3(keys: Metadata) -> Words:
    """Each fourth layer does not turn its heads; the file's readers know, the file doesn't say."""
    turned = [int((i + 1) % 4 != 0) for i in range(layers(keys))]
    return {
        **llama(keys),
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "no_rope_layers": turned,
        "use_sliding_window": False,
    }


def granite(keys: Metadata) -> Words:
    return {**llama(keys), **multipliers(keys), "architectures": ["GraniteForCausalLM"], "model_type": "granite"}


def multipliers(keys: Metadata) -> Words:
    """Of the Granite families."""
    return {
        "attention_multiplier": keys.real("attention.scale", head_dim(keys) ** -0.5),
        "embedding_multiplier": keys.real("embedding_scale", 1.0),
        "residual_multiplier": keys.real("residual_scale", 1.0),
        "logits_scaling": keys.real("logit_scale", 1.0),
    }


def qwen2(keys: Metadata) -> Words:
    return {**pre_norm(keys), "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"}


def qwen3(keys: Metadata) -> Words:
    found = {**pre_norm(keys), "attention_bias": keys.has("blk.0.attn_q.bias")}
    return {**found, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu"}


def seed_oss(keys: Metadata) -> Words:
    biases = {"attention_bias": keys.has("blk.0.attn_q.bias"), "attention_out_bias": keys.has("blk.0.attn_output.bias")}
    found = {**pre_norm(keys), **biases, "mlp_bias": keys.has("blk.0.ffn_gate.bias")}
    return {**found, "architectures": ["SeedOssForCausalLM"], "model_type": "seed_oss", "hidden_act": "silu"}


def ernie4_5(keys: Metadata) -> Words:
    found = {**pre_norm(keys), "use_bias": keys.has("blk.0.attn_q.bias")}
    return {**found, "architectures": ["Ernie4_5ForCausalLM"], "model_type": "ernie4_5", "hidden_act": "silu"}


def exaone4(keys: Metadata) -> Words:
    window = keys.whole("attention.sliding_window", 0, least=0) or None
    found = {**pre_norm(keys), "sliding_window": window, "layer_types": layer_types(keys, every=4 if window else 1)}
    return {**found, "architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4", "hidden_act": "silu"}


def olmo2(keys: Metadata) -> Words:
    """OLMo 2; OLMo 3 where there is a window, whose layers have a rope of their own, never stretched."""
    common = {**sizes(keys), **whole_heads(keys), **rms_norms(keys), "hidden_act": "silu", "attention_bias": False}
    if not keys.whole("attention.sliding_window", 0, least=0):
        return {**common, **rope(keys), "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"}
    theta = keys.real("rope.freq_base", 10_000.0)
    full = {"rope_type": "default", **(rope_scaling(keys) or {}), "rope_theta": theta}
    local = {"rope_type": "default", "rope_theta": keys.real("rope.freq_base_swa", theta)}
    return {
        **common,
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "sliding_window": keys.whole("attention.sliding_window"),
        "layer_types": layer_types(keys, every=4),
        "rope_parameters": {"full_attention": full, "sliding_attention": local},
    }


def glm4(keys: Metadata) -> Words:
    heads, share = part_heads(keys)
    return {
        **sizes(keys),
        **heads,
        **rms_norms(keys),
        **rope(keys),
        "architectures": ["Glm4ForCausalLM"],
        "model_type": "glm4",
        "hidden_act": "silu",
        "attention_bias": keys.has("blk.0.attn_q.bias"),
        "partial_rotary_factor": share,
    }


def cohere(keys: Metadata) -> Words:
    found = {**sizes(keys), **whole_heads(keys), **layer_norms(keys), **rope(keys)}
    return {
        **found,
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "hidden_act": "silu",
        "logit_scale": keys.real("logit_scale", 1.0),
        "use_qk_norm": keys.has("blk.0.attn_q_norm.weight"),
        "attention_bias": keys.has("blk.0.attn_q.bias"),
    }


def cohere2(keys: Metadata) -> Words:
    """Three layers with a window, whose heads turn, then one of all positions, whose don't."""
    found = {**sizes(keys), **whole_heads(keys), **layer_norms(keys), **rope(keys)}
    return {
        **found,
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "hidden_act": "silu",
        "logit_scale": keys.real("logit_scale"),
        "sliding_window": keys.whole("attention.sliding_window"),
        "layer_types": layer_types(keys, every=4),
        "attention_bias": keys.has("blk.0.attn_q.bias"),
    }


def gemma(keys: Metadata) -> Words:
    found = {**pre_norm(keys), "architectures": ["GemmaForCausalLM"], "model_type": "gemma"}
    return {**found, "hidden_activation": "gelu_pytorch_tanh"}


def gemma2(keys: Metadata) -> Words:
    return {
        **pre_norm(keys),
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": keys.real("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": keys.real("final_logit_softcapping", 30.0),
        "sliding_window": keys.whole("attention.sliding_window", 4096),
        "layer_types": layer_types(keys, every=2),
        "query_pre_attn_scalar": query_scalar(keys, large=46),
    }


def gemma3(keys: Metadata) -> Words:
    windowed = keys.get("attention.sliding_window") is not None
    softcap = keys.get("final_logit_softcapping")
    return {
        **sizes(keys),
        **whole_heads(keys),
        **rms_norms(keys),
        **rope(keys, 1_000_000.0),
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None if softcap is None else keys.real("final_logit_softcapping"),
        "sliding_window": keys.whole("attention.sliding_window", 4096),
        "layer_types": layer_types(keys, every=6 if windowed else 1),
        "query_pre_attn_scalar": query_scalar(keys, large=62),
        "rope_local_base_freq": keys.real("rope.freq_base_swa", 10_000.0),
    }


def phi3(keys: Metadata) -> Words:
    """Phi-3 and Phi-4; a window of 0 is none. The factors of a long rope lie in tensors."""
    heads, share = part_heads(keys)
    original = keys.whole("rope.scaling.original_context_length", keys.whole("context_length"))
    theta = keys.real("rope.freq_base", 10_000.0)
    found = {
        **sizes(keys),
        **heads,
        **rms_norms(keys),
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "sliding_window": keys.whole("attention.sliding_window", 0, least=0) or None,
        "partial_rotary_factor": share,
        "original_max_position_embeddings": original,
        "rope_theta": theta,
    }
    if not keys.has("rope_factors_long.weight"):
        fixed(keys, "rope.scaling.attn_factor", 1.0)
        return {**found, **rope(keys)}
    return {**found, "rope_scaling": _long_rope(keys, original)}


def _long_rope(keys: Metadata, original: int) -> Words:
    fixed(keys, "rope.scaling.type", "longrope")
    scaling: Words = {"rope_type": "longrope", "original_max_position_embeddings": original}
    for name in ("short", "long"):
        if not keys.has(f"rope_factors_{name}.weight"):
            raise BadModel(f"{keys.file.path} has no tensor rope_factors_{name}.weight")
        values = keys.file.data(f"rope_factors_{name}.weight").reshape(-1)
        scaling[f"{name}_factor"] = [shortest(value) for value in values]
    if keys.get("rope.scaling.attn_factor") is not None:
        factor = keys.real("rope.scaling.attn_factor")
        if factor != shortest(_usual(keys.whole("context_length") / original, original)):
            scaling["attention_factor"] = factor
    return scaling


def _usual(longer: float, original: int) -> float:
    """What the converters write, rounded to float32: the magnitude that follows from the lengths of contexts."""
    return math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 < original else 1.0


AFTER: Names = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
# Gemma has a norm before and after each half of a block, and Hugging Face calls the one after attention what it calls
# the one before the feed-forward half elsewhere.
GEMMA: Names = {**DENSE, **AFTER, "ffn_norm": "pre_feedforward_layernorm"}
OLMO2: Names = {**DENSE, **AFTER}
SEED_OSS: Names = {**DENSE, "post_attention_norm": "post_attention_layernorm"}
GLM4: Names = {
    **DENSE,
    "ffn_up": "mlp.gate_up_proj",
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
PHI3: Names = {**DENSE, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
