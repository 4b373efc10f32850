"""Gemma (Gemma team, 2024, arXiv:2403.08295): the Llama block; embeddings are scaled, norms multiply by 1 + w."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, rope, stretched

ARCHITECTURES = ("GemmaForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=16, head_dim=256, tie_word_embeddings=True)
        positions = keys.count("max_position_embeddings", 8192)
        turn = rope(keys, positions)
        keys.expect("use_bidirectional_attention", False)
        keys.expect("hidden_activation", "gelu_pytorch_tanh")
        keys.expect("hidden_act", "gelu", "gelu_pytorch_tanh")  # the first files say gelu, and mean the other
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation="gelu_tanh",
            rope=turn,
            windows=(None,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            embed_scale=sizes["hidden"] ** 0.5,
            norms_plus_one=True,
            biased=attention_biases(keys),
        )
        keys.done()
        return config


WEIGHTS = llama.WEIGHTS
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)
