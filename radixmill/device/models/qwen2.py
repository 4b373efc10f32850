"""Qwen2 and Qwen2.5 (Yang et al., 2024, arXiv:2407.10671): the Llama block with biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, rope, stretched, upper_windows

ARCHITECTURES = ("Qwen2ForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys)
        positions = keys.count("max_position_embeddings", 32_768)
        turn = rope(keys, positions)
        keys.expect("use_mrope", False)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=upper_windows(keys, sizes["layers"]),
            scale=sizes["head_dim"] ** -0.5,
            biased=frozenset({"q", "k", "v"}),
        )
        keys.done()
        return config


WEIGHTS = llama.WEIGHTS
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)
