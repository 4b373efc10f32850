"""OLMoE (Muennighoff et al., 2024, arXiv:2409.02060): a norm over all query heads as one and over all key heads; many small experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import sparse
from radixmill.device.models.blocks import HEAD_NORMS
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, rope, stretched
from radixmill.device.models.sparse import SparseConfig, checked, count_of_experts

ARCHITECTURES = ("OlmoeForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, rms_norm_eps=1e-5)
        positions = keys.count("max_position_embeddings", 4096)
        turn = rope(keys, positions)
        routing = Routing(
            experts=count_of_experts(keys, 64),
            top=keys.count("num_experts_per_tok", 8),
            score="softmax",
            renormalise=keys.flag("norm_topk_prob", False),
        )
        keys.expect("clip_qkv", None)
        keys.inert(*sparse.TRAINING)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=(None,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            biased=attention_biases(keys),
            routing=checked(keys, routing),
            expert_inner=sizes["inner"],
        )
        keys.done()
        return config


WEIGHTS = replace(sparse.WEIGHTS, block={**sparse.WEIGHTS.block, **HEAD_NORMS})
Block = sparse.WideNormBlock
FAMILY = Family(Config, WEIGHTS, Block)
