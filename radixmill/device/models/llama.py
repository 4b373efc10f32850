"""Llama 2 and 3, SmolLM and SmolLM2 (Touvron et al., 2023, arXiv:2307.09288): pre-norm, rotary, grouped-query attention,
SiLU-gated feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLP, Attention, Build, ForwardBatch, Parts
from radixmill.device.models.decoder import DecoderConfig, Family, Names, norm
from radixmill.device.models.keys import Keys, dimensions, llama_biases, rope, stretched

ARCHITECTURES = ("LlamaForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys)
        positions = keys.count("max_position_embeddings", 2048)
        turn = rope(keys, positions)
        keys.expect("sliding_window")
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=(None,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            biased=llama_biases(keys),
        )
        keys.done()
        return config


WEIGHTS = Names(
    block={
        "attention_norm": ("input_layernorm",),
        "q": ("self_attn.q_proj",),
        "k": ("self_attn.k_proj",),
        "v": ("self_attn.v_proj",),
        "out": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    }
)


class Block:
    def __init__(self, build: Build, config: DecoderConfig, part: Parts, layer: int) -> None:
        self.ops = build.ops
        self.attention_norm = norm(build, part("attention_norm"), config)
        self.attention = Attention(build, part, config.attention(layer))
        self.mlp_norm = norm(build, part("mlp_norm"), config)
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self.attention(self.attention_norm(x), batch))
        return self.ops.add(x, self.mlp(self.mlp_norm(x)))


FAMILY = Family(Config, WEIGHTS, Block)
