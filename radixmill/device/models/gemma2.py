"""Gemma 2 (Gemma team, 2024, arXiv:2408.00118): norms before and after each half, soft-caps, every other layer windowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLP, Attention, Build, ForwardBatch, Parts
from radixmill.device.models import llama
from radixmill.device.models.blocks import head_norms
from radixmill.device.models.decoder import DecoderConfig, Family, norm
from radixmill.device.models.keys import Keys, attention_biases, dimensions, layer_windows, rope, stretched

ARCHITECTURES = ("Gemma2ForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=4, head_dim=256, tie_word_embeddings=True)
        positions = keys.count("max_position_embeddings", 8192)
        turn = rope(keys, positions)
        window = keys.count("sliding_window", keys.count("sliding_window_size", 4096))
        pattern = ("full_attention" if i % 2 else "sliding_attention" for i in range(sizes["layers"]))
        keys.expect("use_bidirectional_attention", False)
        keys.inert("hidden_act")  # hidden_activation is what counts
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_activation", "gelu_pytorch_tanh"),
            rope=turn,
            windows=layer_windows(keys, sizes["layers"], window, pattern),
            scale=keys.number("query_pre_attn_scalar", 256) ** -0.5,
            softcap=keys.nullable_number("attn_logit_softcapping", 50.0),
            logit_softcap=keys.nullable_number("final_logit_softcapping", 30.0),
            embed_scale=sizes["hidden"] ** 0.5,
            norms_plus_one=True,
            biased=attention_biases(keys),
        )
        keys.done()
        return config


WEIGHTS = replace(
    llama.WEIGHTS,
    block={
        **llama.WEIGHTS.block,
        "after_attention_norm": ("post_attention_layernorm",),
        "mlp_norm": ("pre_feedforward_layernorm",),
        "after_mlp_norm": ("post_feedforward_layernorm",),
    },
)


class Block:
    def __init__(self, build: Build, config: DecoderConfig, part: Parts, layer: int) -> None:
        self.ops = build.ops
        self.attention_norm = norm(build, part("attention_norm"), config)
        self.after_attention_norm = norm(build, part("after_attention_norm"), config)
        self.mlp_norm = norm(build, part("mlp_norm"), config)
        self.after_mlp_norm = norm(build, part("after_mlp_norm"), config)
        self.attention = Attention(build, part, config.attention(layer), head_norms(build, config, part))
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self.after_attention_norm(self.attention(self.attention_norm(x), batch)))
        return self.ops.add(x, self.after_mlp_norm(self.mlp(self.mlp_norm(x))))


FAMILY = Family(Config, WEIGHTS, Block)
