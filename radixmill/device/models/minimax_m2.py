"""MiniMax-M2 (the card of MiniMaxAI/MiniMax-M2): norms over all heads as one, part of a head turns, experts chosen by
biased sigmoids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import sparse
from radixmill.device.models.blocks import HEAD_NORMS
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, dimensions, partial_rope, stretched
from radixmill.device.models.sparse import SparseConfig, checked, count_of_experts

ARCHITECTURES = ("MiniMaxM2ForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=8, head_dim=128)
        positions, dim = keys.count("max_position_embeddings", 196_608), sizes["head_dim"]
        turn, turned = partial_rope(keys, positions, dim, keys.count("rotary_dim", dim) / dim, 5e6)
        routing = Routing(
            experts=count_of_experts(keys, 256),
            top=keys.count("num_experts_per_tok", 8),
            score="sigmoid",
            renormalise=True,
        )
        keys.expect("attn_type_list", [1] * sizes["layers"])  # 1: attention
        keys.expect("qk_norm_type", "per_layer")
        keys.expect("scoring_func", "sigmoid")
        keys.expect("shared_intermediate_size", 0)
        keys.expect("use_qk_norm", True)
        keys.expect("use_routing_bias", True)
        keys.expect("sliding_window", None)
        for layer in ("full_attention", "linear_attention", "mlp"):
            keys.expect(f"layernorm_{layer}_beta", 1)
        keys.inert(*sparse.TRAINING, "mlp_intermediate_size", "shared_moe_mode")  # of layers that there are none of
        keys.inert("use_mtp", "num_mtp_modules", "mtp_transformer_layers")
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            turned=turned,
            windows=(None,) * sizes["layers"],
            scale=dim**-0.5,
            routing=checked(keys, routing),
            expert_inner=sizes["inner"],
            biased_choice=True,
        )
        keys.done()
        return config


WEIGHTS = replace(
    sparse.WEIGHTS,
    block={**sparse.WEIGHTS.block, **HEAD_NORMS, "choice_bias": ("mlp.e_score_correction_bias",)},
    bare=frozenset({"choice_bias"}),
    inert=(*sparse.WEIGHTS.inert, r"(^|\.)mtp"),
)
Block = sparse.WideNormBlock
FAMILY = Family(Config, WEIGHTS, Block)
