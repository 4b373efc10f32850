"""Youtu-LLM (Lu et al., 2025, arXiv:2512.24618): the attention of DeepSeek-V3 without its experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import deepseek_v2
from radixmill.device.models.decoder import Family
from radixmill.device.models.deepseek_v2 import LatentConfig, latent_numbers
from radixmill.device.models.keys import Keys

ARCHITECTURES = ("YoutuForCausalLM",)


class Config(LatentConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        keys.expect("mlp_bias", False)
        keys.inert("embedding_initializer_range")
        numbers = latent_numbers(keys, q_lora_rank=1536, max_position_embeddings=131_072, tie_word_embeddings=True)
        config = cls(
            **numbers,
            dense=frozenset(range(numbers["layers"])),
            routing=Routing(1, 1, "softmax", False),  # of no layer
            expert_inner=1,
            interleaved=keys.flag("rope_interleave", True),
        )
        keys.done()
        return config


WEIGHTS = deepseek_v2.WEIGHTS
Block = deepseek_v2.Block
FAMILY = Family(Config, WEIGHTS, Block)
