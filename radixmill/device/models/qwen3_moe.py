"""Qwen3, mixtures of experts (Yang et al., 2025, arXiv:2505.09388): the Qwen3 block without an expert for all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import sparse
from radixmill.device.models.blocks import HEAD_NORMS
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, rope, stretched
from radixmill.device.models.sparse import SparseConfig, checked, count_of_experts, stepped_layers

ARCHITECTURES = ("Qwen3MoeForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=4)
        positions = keys.count("max_position_embeddings", 32_768)
        turn = rope(keys, positions)
        routing = Routing(
            experts=count_of_experts(keys, 128),
            top=keys.count("num_experts_per_tok", 8),
            score="softmax",
            renormalise=keys.flag("norm_topk_prob", False),
        )
        window = keys.nullable_count("sliding_window", 4096)
        if not keys.flag("use_sliding_window", False):
            window = None
        keys.inert(*sparse.TRAINING, "max_window_layers")  # a window is of all layers
        keys.expect("qkv_bias", False)
        keys.expect("use_qk_norm", True)
        keys.expect("shared_expert_intermediate_size", 0)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=(window,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            biased=attention_biases(keys),
            routing=checked(keys, routing),
            expert_inner=keys.count("moe_intermediate_size", 768),
            dense=stepped_layers(keys, sizes["layers"]),
        )
        keys.done()
        return config


WEIGHTS = replace(sparse.WEIGHTS, block={**sparse.WEIGHTS.block, **HEAD_NORMS})
Block = sparse.Block
FAMILY = Family(Config, WEIGHTS, Block)
