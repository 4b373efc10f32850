"""GLM-4.7-Flash (the card of zai-org/GLM-4.7-Flash): the block of DeepSeek-V3, its layers with experts listed one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.core.errors import BadModel
from radixmill.device.models import deepseek_v2
from radixmill.device.models.decoder import Family
from radixmill.device.models.deepseek_v2 import LatentConfig, expert_sizes, latent_numbers, leading_dense
from radixmill.device.models.deepseek_v3 import routing
from radixmill.device.models.keys import Keys

ARCHITECTURES = ("Glm4MoeLiteForCausalLM",)
# What a file may leave out.
DEFAULTS = {
    "q_lora_rank": 768, "qk_nope_head_dim": 192, "v_head_dim": 256, "max_position_embeddings": 202_752, "rms_norm_eps": 1e-5,
}  # fmt: skip


class Config(LatentConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        keys.expect("mlp_bias", False)
        numbers = latent_numbers(keys, **DEFAULTS)
        config = cls(
            **numbers,
            **expert_sizes(keys, 1),
            dense=_dense(keys, numbers["layers"]),
            routing=routing(keys, experts=64, top=4, scaling=1.8, groups=1, top_groups=1),
            biased_choice=True,
            interleaved=keys.flag("rope_interleave", True),
            spare_layers=keys.natural("num_nextn_predict_layers", 1),
        )
        keys.done()
        return config


def _dense(keys: Keys, layers: int) -> frozenset[int]:
    """`mlp_layer_types`, or the older way to say it: all before `first_k_dense_replace`."""
    leading = leading_dense(keys, layers, 1)
    if (kinds := keys.get("mlp_layer_types")) is None:
        return leading
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= {"dense", "sparse"}:
        raise BadModel(f"{keys.where}: mlp_layer_types does not say dense or sparse for each of {layers} layers")
    return frozenset(i for i, kind in enumerate(kinds) if kind == "dense")


WEIGHTS = deepseek_v2.WEIGHTS
Block = deepseek_v2.Block
FAMILY = Family(Config, WEIGHTS, Block)
