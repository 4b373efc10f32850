"""Granite 3 (IBM, Granite 3.0 Language Models, 2024): the Llama block, with four multipliers: of embeddings, of what each half
adds, of attention scores, of logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from radixmill.device.layers import Build, Parts
from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, llama_biases, rope, stretched

ARCHITECTURES = ("GraniteForCausalLM",)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    residual_scale: float  # of what attention and feed-forward add

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys)
        positions = keys.count("max_position_embeddings", 2048)
        turn = rope(keys, positions)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=(None,) * sizes["layers"],
            scale=keys.number("attention_multiplier", 1.0),
            embed_scale=keys.number("embedding_multiplier", 1.0),
            residual_scale=keys.number("residual_multiplier", 1.0),
            logit_scale=1 / keys.number("logits_scaling", 1.0),
            biased=llama_biases(keys),
        )
        keys.done()
        return config


WEIGHTS = llama.WEIGHTS


class Block(llama.Block):
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        super().__init__(build, config, part, layer)
        self.residual = config.residual_scale


FAMILY = Family(Config, WEIGHTS, Block)
