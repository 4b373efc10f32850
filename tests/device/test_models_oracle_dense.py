"""Dense families: see oracle_kit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.device.kernels.contract import Ops
from tests.device import oracle_kit
from tests.device.model_kit import Driver
from tests.device.oracle_kit import Case

pytestmark = pytest.mark.oracle

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6}
ROPE = {"rope_type": "default", "rope_theta": 1e3}
LONG = {**ROPE, "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.4], "long_factor": [1.5, 2.0, 5.0, 9.0]}
GROWING = {
    **YARN,
    "original_max_position_embeddings": 8,
    "rope_theta": 1e4,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.3,
}
GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2, "logits_scaling": 5.0}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied-mha": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-mqa-head-dim-10": ("Llama", {"num_key_value_heads": 1, "head_dim": 10, "rms_norm_eps": 1e-3}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e3}}),
    "llama-llama3": ("Llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16, "rope_theta": 1e3}}),
    "llama-yarn": ("Llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "llama-yarn-whole": (
        "Llama",
        {"rope_parameters": {**YARN, "rope_theta": 1e2, "attention_factor": 1.3, "beta_fast": 8.0, "truncate": False}},
    ),
    "llama-yarn-mscale": ("Llama", {"rope_parameters": {**YARN, "rope_theta": 1e4, "mscale": 0.7, "mscale_all_dim": 1.1}}),
    "mistral-window": ("Mistral", {"sliding_window": 7}),
    "mistral-no-window": ("Mistral", {"sliding_window": None, "head_dim": 12}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-upper-windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "qwen3-bias-tied": ("Qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2-no-caps": ("Gemma2", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("Gemma3Text", {**GEMMA, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "gemma3-ropes": (
        "Gemma3Text",
        {**GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4, "rope_parameters": GEMMA3_ROPES},
    ),
    "gemma3-softcap": ("Gemma3Text", {**GEMMA, "final_logit_softcapping": 2.0, "tie_word_embeddings": False}),
    "gemma3-vision": ("Gemma3", {**GEMMA}),
    "gemma": ("Gemma", {"head_dim": 12}),
    "gemma-bias-untied": ("Gemma", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": False, "num_key_value_heads": 1}),
    "ministral": ("Ministral", {"head_dim": 8, "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
    "ministral-whole": ("Ministral", {"head_dim": 8, "sliding_window": 6, "tie_word_embeddings": True}),
    "ministral3": ("Ministral3", {"head_dim": 8, "rope_parameters": GROWING}),
    "ministral3-vision": ("Mistral3", {"model_type": "ministral3", "head_dim": 10, "rope_parameters": {**GROWING, "llama_4_scaling_beta": 0.7}}),
    "mistral-vision": ("Mistral3", {"head_dim": 10, "rope_parameters": {"rope_type": "default", "rope_theta": 1e3}, "sliding_window": None}),
    "mistral-vision-tied": ("Mistral3", {"sliding_window": 5, "tie_word_embeddings": True}),
    "phi3": ("Phi3", {"sliding_window": 7}),
    "phi3-partial-tied": ("Phi3", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.75}, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "phi3-long": ("Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 16}),
    "phi3-short": ("Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64, "max_position_embeddings": 256}),
    "phi3-long-partial": ("Phi3", {"rope_parameters": {**LONG, "partial_rotary_factor": 0.75, "long_factor": [1.5, 2.0, 9.0], "short_factor": [1.0, 1.1, 1.2], "attention_factor": 1.2}, "original_max_position_embeddings": 16}),
    "olmo2": ("Olmo2", {}),
    "olmo2-bias-tied": ("Olmo2", {"attention_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "olmo3": ("Olmo3", {"sliding_window": 6, "num_hidden_layers": 4}),
    "olmo3-ropes": (
        "Olmo3",
        {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
         "rope_parameters": {"full_attention": {**YARN, "rope_theta": 1e4}, "sliding_attention": {**ROPE}}},
    ),
    "granite": ("Granite", GRANITE),
    "granite-biases-tied": ("Granite", {**GRANITE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "smollm3-windows": (
        "SmolLM3",
        {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 6, "tie_word_embeddings": False,
         "attention_bias": True, "mlp_bias": True},
    ),
    "cohere": ("Cohere", {"logit_scale": 0.3}),
    "cohere-head-norms": ("Cohere", {"use_qk_norm": True, "tie_word_embeddings": False, "layer_norm_eps": 1e-2}),
    "cohere-bias-one-head": ("Cohere", {"use_qk_norm": True, "attention_bias": True, "num_key_value_heads": 1}),
    "cohere2": ("Cohere2", {"sliding_window": 6, "num_hidden_layers": 4, "logit_scale": 0.5}),
    "cohere2-types": ("Cohere2", {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    "glm": ("Glm", {"head_dim": 8}),
    "glm-no-bias-quarter": ("Glm", {"head_dim": 16, "attention_bias": False, "tie_word_embeddings": True, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}}),
    "glm4": ("Glm4", {"head_dim": 8}),
    "glm4-whole": ("Glm4", {"head_dim": 12, "attention_bias": False, "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}),
    "exaone4": ("Exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "exaone4-windows": ("Exaone4", {"sliding_window": 6, "sliding_window_pattern": 2, "tie_word_embeddings": True}),
    "seed-oss": ("SeedOss", {"head_dim": 12}),
    "seed-oss-other-biases": ("SeedOss", {"head_dim": 8, "attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    "ernie4.5": ("Ernie4_5", {"head_dim": 12}),
    "ernie4.5-biases": ("Ernie4_5", {"head_dim": 8, "use_bias": True, "tie_word_embeddings": False}),
    "helium": ("Helium", {"head_dim": 8}),
    "helium-biases": ("Helium", {"head_dim": 8, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
}  # fmt: skip

case, ops = oracle_kit.cases(CASES), oracle_kit.every_backend()


def test_logits_equal_transformers_and_cuts_change_no_bit(case: Case, ops: Ops) -> None:
    oracle_kit.check_logits_and_cuts(case, ops)


def test_company_changes_no_bit(case: Case, ops: Ops) -> None:
    oracle_kit.check_company(case, ops)


def test_old_style_configs_mean_the_same(tmp_path: Path, ops: Ops) -> None:
    """rope_theta and rope_scaling at the top level, as files written before rope_parameters have them."""
    model = oracle_kit.make(*CASES["llama-llama3"])
    model.save_pretrained(tmp_path)
    ids = list(range(20))
    (new,) = Driver(oracle_kit.load(tmp_path, ops)).run([ids], [[20]])
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (old,) = Driver(oracle_kit.load(tmp_path, ops)).run([ids], [[20]])
    assert np.array_equal(new, old)
