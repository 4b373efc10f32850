"""Qwen3, dense (Yang et al., 2025, arXiv:2505.09388): the Llama block with a norm on each query and key head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLP, Attention, Build, ForwardBatch, Norm, Parts
from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, rope, stretched, upper_windows

ARCHITECTURES = ("Qwen3ForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, head_dim=128)
        positions = keys.count("max_position_embeddings", 32_768)
        turn = rope(keys, positions)
        biased = ("q", "k", "v", "out") if keys.flag("attention_bias", False) else ()
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=upper_windows(keys, sizes["layers"]),
            scale=sizes["head_dim"] ** -0.5,
            biased=frozenset(biased),
        )
        keys.done()
        return config


WEIGHTS = replace(
    llama.WEIGHTS, block={**llama.WEIGHTS.block, "q_norm": ("self_attn.q_norm",), "k_norm": ("self_attn.k_norm",)}
)


class Block:
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        self.ops = build.ops
        self.attention_norm = Norm(build, part("attention_norm"), config.hidden, config.eps)
        q_norm = Norm(build, part("q_norm"), config.head_dim, config.eps)
        k_norm = Norm(build, part("k_norm"), config.head_dim, config.eps)
        self.attention = Attention(build, part, config.attention(layer), (q_norm, k_norm))
        self.mlp_norm = Norm(build, part("mlp_norm"), config.hidden, config.eps)
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self.attention(self.attention_norm(x), batch))
        return self.ops.add(x, self.mlp(self.mlp_norm(x)))


FAMILY = Family(Config, WEIGHTS, Block)
