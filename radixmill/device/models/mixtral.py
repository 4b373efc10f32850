"""Mixtral (Jiang et al., 2024, arXiv:2401.04088): the Mistral block with a mixture of experts in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import sparse
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, dimensions, rope, stretched
from radixmill.device.models.sparse import SparseConfig, checked, count_of_experts

ARCHITECTURES = ("MixtralForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=8, rms_norm_eps=1e-5)
        positions = keys.count("max_position_embeddings", 131_072)
        turn = rope(keys, positions, 1e6)
        routing = Routing(
            experts=count_of_experts(keys, 8),
            top=keys.count("num_experts_per_tok", 2),
            score="softmax",
            renormalise=True,
        )
        keys.inert(*sparse.TRAINING)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=(keys.nullable_count("sliding_window", None),) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            routing=checked(keys, routing),
            expert_inner=sizes["inner"],
        )
        keys.done()
        return config


WEIGHTS = sparse.WEIGHTS
Block = sparse.Block
FAMILY = Family(Config, WEIGHTS, Block)
