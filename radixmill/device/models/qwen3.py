"""Qwen3, dense (Yang et al., 2025, arXiv:2505.09388): the Llama block with a norm on each query and key head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.models import llama
from radixmill.device.models.blocks import HEAD_NORMS
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, rope, stretched, upper_windows

ARCHITECTURES = ("Qwen3ForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, head_dim=128)
        positions = keys.count("max_position_embeddings", 32_768)
        turn = rope(keys, positions)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=upper_windows(keys, sizes["layers"]),
            scale=sizes["head_dim"] ** -0.5,
            biased=attention_biases(keys),
        )
        keys.done()
        return config


WEIGHTS = replace(llama.WEIGHTS, block={**llama.WEIGHTS.block, **HEAD_NORMS})
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)
