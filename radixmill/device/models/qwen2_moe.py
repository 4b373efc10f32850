"""Qwen1.5-MoE and Qwen2-MoE (Yang et al., 2024, arXiv:2407.10671): experts, and beside them one for all tokens with a gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import sparse
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, dimensions, layer_windows, rope, stretched
from radixmill.device.models.sparse import SparseConfig, checked, count_of_experts, stepped_layers

ARCHITECTURES = ("Qwen2MoeForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=16)
        positions = keys.count("max_position_embeddings", 32_768)
        turn = rope(keys, positions)
        routing = Routing(
            experts=count_of_experts(keys, 60),
            top=keys.count("num_experts_per_tok", 4),
            score="softmax",
            renormalise=keys.flag("norm_topk_prob", False),
        )
        keys.expect("use_mrope", False)
        keys.inert(*sparse.TRAINING)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=_windows(keys, sizes["layers"]),
            scale=sizes["head_dim"] ** -0.5,
            biased=frozenset({"q", "k", "v"} if keys.flag("qkv_bias", True) else ()),
            routing=checked(keys, routing),
            expert_inner=keys.count("moe_intermediate_size", 1408),
            dense=stepped_layers(keys, sizes["layers"]),
            shared_inner=keys.count("shared_expert_intermediate_size", 5632),
            shared_gate=True,
        )
        keys.done()
        return config


def _windows(keys: Keys, layers: int) -> tuple[int | None, ...]:
    """Every other layer's below max_window_layers, if use_sliding_window says so. Files without windows may call them 0."""
    first = keys.get("max_window_layers", 28)
    keys.inert("sliding_window")
    window = keys.count("sliding_window", 4096) if keys.flag("use_sliding_window", False) else None
    pattern = ("sliding_attention" if window and i < first and not i % 2 else "full_attention" for i in range(layers))
    return layer_windows(keys, layers, window, pattern)


WEIGHTS = replace(
    sparse.WEIGHTS,
    block={
        **sparse.WEIGHTS.block,
        "shared_gate_up": ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
        "shared_down": ("mlp.shared_expert.down_proj",),
        "shared_gate": ("mlp.shared_expert_gate",),
    },
)
Block = sparse.Block
FAMILY = Family(Config, WEIGHTS, Block)
