"""Llama 2 and 3, SmolLM and SmolLM2, and Mistral: pre-norm, rotary, grouped-query attention, SiLU-gated feed-forward.

Touvron et al., 2023 (arXiv:2307.09288); Jiang et al., 2023 (arXiv:2310.06825), whose window covers every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLP, Attention, Build, ForwardBatch, Norm, Parts
from radixmill.device.models.decoder import DecoderConfig, Family, Names
from radixmill.device.models.keys import Keys, dimensions, rope, stretched

MISTRAL = "MistralForCausalLM"
ARCHITECTURES = ("LlamaForCausalLM", MISTRAL)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf)
        mistral = MISTRAL in keys.get("architectures", ())
        sizes = dimensions(keys, num_key_value_heads=8) if mistral else dimensions(keys)
        positions = keys.count("max_position_embeddings", 131_072 if mistral else 2048)
        turn = rope(keys, positions)
        window = keys.nullable_count("sliding_window", 4096) if mistral else None
        keys.expect("sliding_window", window)
        biased = {"q", "k", "v", "out"} if keys.flag("attention_bias", False) else set()
        biased |= {"gate_up", "down"} if keys.flag("mlp_bias", False) else set()
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=(window,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            biased=frozenset(biased),
        )
        keys.done(allow_unknown)
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
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        self.ops = build.ops
        self.attention_norm = Norm(build, part("attention_norm"), config.hidden, config.eps)
        self.attention = Attention(build, part, config.attention(layer))
        self.mlp_norm = Norm(build, part("mlp_norm"), config.hidden, config.eps)
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self.attention(self.attention_norm(x), batch))
        return self.ops.add(x, self.mlp(self.mlp_norm(x)))


FAMILY = Family(Config, WEIGHTS, Block)
