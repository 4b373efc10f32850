"""GLM-4 9B, first release (GLM team, 2024, arXiv:2406.12793): the Llama block; the first half of each head turns, neighbours
together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, partial_rope, stretched

ARCHITECTURES = ("GlmForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=2, head_dim=128, rms_norm_eps=1.5625e-7)
        positions = keys.count("max_position_embeddings", 131_072)
        turn, turned = partial_rope(keys, positions, sizes["head_dim"], 0.5)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            turned=turned,
            interleaved=True,
            windows=(None,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            biased=attention_biases(keys, True, "qkv"),
        )
        keys.done()
        return config


WEIGHTS = replace(llama.WEIGHTS, block={**llama.WEIGHTS.block, "gate_up": ("mlp.gate_up_proj",)})
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)
