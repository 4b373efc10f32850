"""Llama 2 and 3, SmolLM and SmolLM2 (Touvron et al., 2023, arXiv:2307.09288): pre-norm, rotary, grouped-query attention,
SiLU-gated feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.layers import MLP, Attention, Build, Parts
from radixmill.device.models.blocks import PreNormBlock, head_norms
from radixmill.device.models.decoder import DecoderConfig, Family, Names
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


class Block(PreNormBlock):
    """With a norm on each query and key head where a family's table has these."""

    def __init__(self, build: Build, config: DecoderConfig, part: Parts, layer: int) -> None:
        attention = Attention(build, part, config.attention(layer), head_norms(build, config, part))
        mlp = MLP(build, part, config.hidden, config.inner, config.activation)
        super().__init__(build, config, part, attention, mlp)


FAMILY = Family(Config, WEIGHTS, Block)
