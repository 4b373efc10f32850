"""GLM-4.5 and 4.6 (GLM-4.5 team, 2025, arXiv:2508.06471): half of a head turns; experts chosen by biased sigmoids in groups.

A layer after the last, which guesses several tokens at once, lies in the files unused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.models import sparse
from radixmill.device.models.blocks import HEAD_NORMS
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, partial_rope, stretched
from radixmill.device.models.sparse import SparseConfig, bottom_layers, sigmoid

ARCHITECTURES = ("Glm4MoeForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=8, rms_norm_eps=1e-5)
        positions = keys.count("max_position_embeddings", 131_072)
        turn, turned = partial_rope(keys, positions, sizes["head_dim"], 0.5)
        inner = keys.count("moe_intermediate_size", 1408)
        keys.inert(*sparse.TRAINING)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            turned=turned,
            windows=(None,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            biased=attention_biases(keys, roles="qkv"),
            spare_layers=keys.natural("num_nextn_predict_layers", 1),
            routing=sigmoid(keys, experts=128, top=8),
            expert_inner=inner,
            dense=bottom_layers(keys, sizes["layers"], 1),
            biased_choice=True,
            shared_inner=inner * keys.natural("n_shared_experts", 1),
            head_norms=keys.flag("use_qk_norm", False),
        )
        keys.done()
        return config


WEIGHTS = replace(
    sparse.WEIGHTS,
    block={
        **sparse.WEIGHTS.block,
        **HEAD_NORMS,
        "choice_bias": ("mlp.gate.e_score_correction_bias",),
        "shared_gate_up": ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
        "shared_down": ("mlp.shared_experts.down_proj",),
    },
    bare=frozenset({"choice_bias"}),
)
Block = sparse.Block
FAMILY = Family(Config, WEIGHTS, Block)
