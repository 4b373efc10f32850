"""ERNIE 4.5 mixtures of experts (Baidu, ERNIE 4.5 Technical Report, 2025): neighbours turn together; softmax scores with a
correction for the choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Routing
from radixmill.device.models import sparse
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, dimensions, rope, stretched
from radixmill.device.models.sparse import SparseConfig, checked

ARCHITECTURES = ("Ernie4_5_MoeForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=4, rms_norm_eps=1e-5, tie_word_embeddings=True)
        positions = keys.count("max_position_embeddings", 131_072)
        turn = rope(keys, positions, 500_000.0)
        routing = Routing(
            experts=keys.count("moe_num_experts", 64), top=keys.count("moe_k", 6), score="softmax", renormalise=True
        )
        inner = keys.count("moe_intermediate_size", 1536)
        keys.expect("use_bias", False)
        keys.expect("moe_gate", "topk")
        keys.expect("moe_use_aux_free", True)
        # moe_norm_min: chosen softmax scores never add up to as little.
        keys.inert(*sparse.TRAINING, "moe_capacity", "moe_norm_min", "moe_aux_loss_lambda", "num_nextn_predict_layers")
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            interleaved=True,
            windows=(None,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            routing=checked(keys, routing),
            expert_inner=inner,
            dense=_dense(keys, sizes["layers"]),
            biased_choice=True,
            shared_inner=inner * keys.natural("moe_num_shared_experts", 2),
        )
        keys.done()
        return config


def _dense(keys: Keys, layers: int) -> frozenset[int]:
    """All but each `moe_layer_interval`-th from `moe_layer_start_index` to `moe_layer_end_index` (−1: the last)."""
    step, first = keys.count("moe_layer_interval", 1), keys.natural("moe_layer_start_index", 1)
    last = keys.get("moe_layer_end_index", -1)
    if type(last) is not int:
        raise BadModel(f"{keys.where}: moe_layer_end_index is {last!r}, not the number of a layer")
    last = layers - 1 if last == -1 else last
    return frozenset(i for i in range(layers) if (i + 1) % step or not first <= i <= last)


WEIGHTS = replace(
    sparse.WEIGHTS,
    block={
        **sparse.WEIGHTS.block,
        "choice_bias": ("mlp.moe_statics.e_score_correction_bias",),
        "shared_gate_up": ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
        "shared_down": ("mlp.shared_experts.down_proj",),
    },
    bare=frozenset({"choice_bias"}),
    inert=(*sparse.WEIGHTS.inert, r"(^|\.)mtp_"),
)
Block = sparse.Block
FAMILY = Family(Config, WEIGHTS, Block)
