"""Families with mixtures of experts: see oracle_kit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from radixmill.device.kernels.contract import Ops
from tests.device import oracle_kit
from tests.device.model_kit import Driver
from tests.device.oracle_kit import Case

pytestmark = pytest.mark.oracle

QWEN2 = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
QWEN3 = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "head_dim": 12}
GLM = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "head_dim": 12}
GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}
ERNIE = {"moe_num_experts": 6, "moe_k": 3, "moe_intermediate_size": 16}
OSS = {
    "num_local_experts": 6, "num_experts_per_tok": 4, "head_dim": 12, "sliding_window": 6,
    "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4,
                        "truncate": False, "beta_fast": 8.0},
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 5}),
    "mixtral-window-tied": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": 6, "tie_word_embeddings": True}),
    "qwen2-moe": ("Qwen2Moe", QWEN2),
    "qwen2-moe-some-dense": ("Qwen2Moe", {**QWEN2, "norm_topk_prob": True, "mlp_only_layers": [2], "qkv_bias": False, "num_hidden_layers": 4, "decoder_sparse_step": 2}),
    "qwen2-moe-windows": ("Qwen2Moe", {**QWEN2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "qwen3-moe": ("Qwen3Moe", {**QWEN3, "norm_topk_prob": True}),
    "qwen3-moe-some-dense": ("Qwen3Moe", {**QWEN3, "mlp_only_layers": [0], "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3-moe-window": ("Qwen3Moe", {**QWEN3, "use_sliding_window": True, "sliding_window": 7, "decoder_sparse_step": 2}),
    "glm4-moe": ("Glm4Moe", {**GLM, "attention_bias": True}),
    "glm4-moe-groups": ("Glm4Moe", {**GLM, "n_group": 4, "topk_group": 2, "use_qk_norm": True, "routed_scaling_factor": 2.5, "first_k_dense_replace": 2, "n_shared_experts": 2}),
    "glm4-moe-plain-weights": ("Glm4Moe", {**GLM, "norm_topk_prob": False, "first_k_dense_replace": 0, "tie_word_embeddings": True}),
    "gpt-oss": ("GptOss", OSS),
    "gpt-oss-plain": ("GptOss", {**OSS, "num_experts_per_tok": 2, "attention_bias": False, "tie_word_embeddings": True, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "olmoe": ("Olmoe", {"num_experts": 6, "num_experts_per_tok": 3}),
    "olmoe-renormalised": ("Olmoe", {"num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True, "attention_bias": True, "tie_word_embeddings": True}),
    "granite-moe": ("GraniteMoe", {"num_local_experts": 5, **GRANITE}),
    "granite-moe-tied": ("GraniteMoe", {"num_local_experts": 5, **GRANITE, "attention_bias": True, "tie_word_embeddings": True}),
    "granite-moe-shared": ("GraniteMoeShared", {"num_local_experts": 5, **GRANITE, "shared_intermediate_size": 24}),
    "granite-moe-none-shared": ("GraniteMoeShared", {"num_local_experts": 5, **GRANITE, "tie_word_embeddings": True}),
    "ernie4-5-moe": ("Ernie4_5_Moe", ERNIE),
    "ernie4-5-moe-steps": ("Ernie4_5_Moe", {**ERNIE, "moe_layer_interval": 2, "moe_layer_start_index": 0, "num_hidden_layers": 4, "moe_layer_end_index": 2, "moe_num_shared_experts": 0, "tie_word_embeddings": False}),
    "dots1": ("Dots1", {**GLM, "n_shared_experts": 2, "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5}),
    "dots1-groups": ("Dots1", {**GLM, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "attention_bias": True, "sliding_window": 6, "max_window_layers": 1}),
    "minimax-m2": ("MiniMaxM2", {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 12, "rotary_dim": 8}),
    "minimax-m2-whole": ("MiniMaxM2", {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 12, "tie_word_embeddings": True}),
}  # fmt: skip

case, ops = oracle_kit.cases(CASES), oracle_kit.every_backend()


def test_logits_equal_transformers_and_cuts_change_no_bit(case: Case, ops: Ops) -> None:
    oracle_kit.check_logits_and_cuts(case, ops)


def test_company_changes_no_bit(case: Case, ops: Ops) -> None:
    oracle_kit.check_company(case, ops)


@pytest.mark.parametrize("name", ("mixtral", "qwen2-moe", "glm4-moe"))
def test_files_saved_as_transformers_has_them_in_memory_mean_the_same(name: str, tmp_path: Path, ops: Ops) -> None:
    model, ids = oracle_kit.make(*CASES[name]), list(range(20))
    model.save_pretrained(tmp_path / "old")
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    found = [Driver(oracle_kit.load(tmp_path / form, ops)).run([ids], [[20]])[0] for form in ("old", "new")]
    assert np.array_equal(*found)
    with safe_open(tmp_path / "new" / "model.safetensors", "numpy") as file:
        assert "model.layers.1.mlp.experts.gate_up_proj" in file.keys()  # noqa: SIM118
