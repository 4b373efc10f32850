"""Latent families: see oracle_kit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Ops
from tests.device import oracle_kit
from tests.device.model_kit import Driver
from tests.device.oracle_kit import Case

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

SIZES = {
    "num_key_value_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
    "v_head_dim": 10, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "rms_norm_eps": 1e-3,
}  # fmt: skip
DIRECT = {"q_lora_rank": None}
GROUPS = {"n_group": 4, "topk_group": 2}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "rope_theta": 1e3}
STEP = {**YARN, "original_max_position_embeddings": 32, "rope_theta": 1e2, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}  # fmt: skip
V2 = {**SIZES, **GROUPS, "topk_method": "group_limited_greedy", "routed_scaling_factor": 2.5}
V3 = {**SIZES, **GROUPS, "routed_scaling_factor": 1.7}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v2": ("DeepseekV2", {**V2, "n_shared_experts": 2}),
    "v2-lite": ("DeepseekV2", {**V2, **DIRECT, "topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    "v2-yarn": ("DeepseekV2", {**V2, "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}}),
    "v2-biases-tied": ("DeepseekV2", {**V2, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "v2-wide-values": ("DeepseekV2", {**V2, "v_head_dim": 18, "first_k_dense_replace": 0}),
    "v3": ("DeepseekV3", V3),
    "v3-halves": ("DeepseekV3", {**V3, "rope_interleave": False, "n_shared_experts": 2, "norm_topk_prob": False}),
    "v3-yarn": ("DeepseekV3", {**V3, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.6}}),
    "v3-direct-biased": ("DeepseekV3", {**V3, **DIRECT, "attention_bias": True, "tie_word_embeddings": True}),
    "v3-one-group": ("DeepseekV3", {**V3, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827}),
    "kimi": ("DeepseekV3", {**V3, "n_group": 1, "topk_group": 1, "rope_parameters": STEP}),  # two pairs keep, two stretch
    "kimi-no-ramp": ("DeepseekV3", {**V3, "n_group": 1, "topk_group": 1, "rope_parameters": {**STEP, "truncate": False}}),
    "glm-lite": (
        "Glm4MoeLite",
        {**SIZES, "n_group": 2, "topk_group": 1, "mlp_layer_types": ["sparse", "dense", "sparse"], "v_head_dim": 16},
    ),
    "youtu": (
        "Youtu",
        {key: SIZES[key] for key in SIZES if "expert" not in key and key not in ("moe_intermediate_size", "first_k_dense_replace")},
    ),
}  # fmt: skip

case, ops = oracle_kit.cases(CASES), oracle_kit.every_backend()


def test_logits_equal_transformers_and_cuts_change_no_bit(case: Case, ops: Ops) -> None:
    oracle_kit.check_logits_and_cuts(case, ops)


def test_company_changes_no_bit(case: Case, ops: Ops) -> None:
    oracle_kit.check_company(case, ops)


def test_v2_divides_the_chosen_weights_by_their_sum(tmp_path: Path, ops: Ops) -> None:
    """Where norm_topk_prob says so, as DeepSeek's own code does it. transformers does not look at that key; told to divide,
    it gives our logits."""
    model = oracle_kit.make("DeepseekV2", {**V2, "norm_topk_prob": True, "routed_scaling_factor": 1.0})
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["norm_topk_prob"] is True
    (ours,) = Driver(oracle_kit.load(tmp_path, ops)).run([[1, 2, 3]], [[3]])

    def divided(_gate: Any, _inputs: Any, out: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        scores, weights, chosen = out
        return scores, weights / weights.sum(-1, keepdim=True), chosen

    with torch.no_grad():
        plain = model(torch.tensor([[1, 2, 3]])).logits[0].numpy()
        for block in model.model.layers[1:]:
            block.mlp.gate.register_forward_hook(divided)
        theirs = model(torch.tensor([[1, 2, 3]])).logits[0].numpy()
    assert oracle_kit.error(ours, theirs) <= 1e-4 < 1e-2 < oracle_kit.error(ours, plain)


def test_layers_after_the_last_lie_unused(tmp_path: Path, ops: Ops) -> None:
    """A model of three layers is one of two with a layer that guesses further tokens, less that layer."""
    model = oracle_kit.make("DeepseekV3", V3)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    three = Driver(oracle_kit.load(tmp_path, ops)).run([[1, 2, 3]], [[3]])[0]
    write = (tmp_path / "config.json").write_text
    write(json.dumps({**config, "num_hidden_layers": 2, "num_nextn_predict_layers": 1}))
    model = oracle_kit.load(tmp_path, ops)
    assert len(model.blocks) == 2
    assert not np.array_equal(Driver(model).run([[1, 2, 3]], [[3]])[0], three)
    write(json.dumps({**config, "num_hidden_layers": 2, "num_nextn_predict_layers": 0}))
    with pytest.raises(BadModel, match=r"hold tensors model\.layers\.2\.input_layernorm\.weight"):
        oracle_kit.load(tmp_path, ops)


def test_a_model_without_a_shared_expert(tmp_path: Path, ops: Ops) -> None:
    """What one whose shared expert gives zeros gives."""
    model = oracle_kit.make("DeepseekV3", V3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_("shared_experts" not in name)
        theirs = model(torch.tensor([[1, 2, 3]])).logits[0].numpy()
    tensors = {name: values for name, values in model.state_dict().items() if "shared_experts" not in name}
    model.save_pretrained(tmp_path, state_dict=tensors)
    config = json.loads((tmp_path / "config.json").read_text())
    for none in (0, None):
        (tmp_path / "config.json").write_text(json.dumps({**config, "n_shared_experts": none}))
        (ours,) = Driver(oracle_kit.load(tmp_path, ops)).run([[1, 2, 3]], [[3]])
        assert oracle_kit.error(ours, theirs) <= 1e-4
