"""DeepSeek-V3, R1 and V3.1 (DeepSeek-AI, 2024, arXiv:2412.19437), Kimi K2 and Moonlight: the block of DeepSeek-V2, with
experts whose scores are sigmoids, chosen by a corrected score from the groups whose best two are best together.

The layers after the last, which guess the tokens after the next one, are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import deepseek_v2
from radixmill.device.models.decoder import Family
from radixmill.device.models.deepseek_v2 import LatentConfig, expert_sizes, latent_numbers, leading_dense
from radixmill.device.models.keys import Keys
from radixmill.device.models.sparse import sigmoid

ARCHITECTURES = ("DeepseekV3ForCausalLM",)


class Config(LatentConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        keys.expect("mlp_bias", False)
        numbers = latent_numbers(keys, q_lora_rank=1536, max_position_embeddings=4096)
        config = cls(
            **numbers,
            **expert_sizes(keys, 1),
            dense=leading_dense(keys, numbers["layers"], 3),
            routing=routing(keys, experts=256, top=8, scaling=2.5, groups=8, top_groups=4),
            biased_choice=True,
            interleaved=keys.flag("rope_interleave", True),
            spare_layers=keys.natural("num_nextn_predict_layers", 1),
        )
        keys.done()
        return config


def routing(keys: Keys, **default: Any) -> Routing:
    """`default`: see sparse.sigmoid."""
    keys.expect("scoring_func", "sigmoid")
    keys.expect("topk_method", "noaux_tc")
    return sigmoid(keys, **default)


WEIGHTS = deepseek_v2.WEIGHTS
Block = deepseek_v2.Block
FAMILY = Family(Config, WEIGHTS, Block)
