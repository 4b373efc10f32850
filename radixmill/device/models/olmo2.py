"""OLMo 2 and OLMo 3 (OLMo team, 2025, arXiv:2501.00656): norms after attention and feed-forward instead of before, and over
all query heads and all key heads at once. OLMo 3 has windows in three of four layers, and stretches the rope of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLP, Attention, Build, ForwardBatch, Norm, Parts
from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, layer_windows, rope, stretched, two_ropes

OLMO3 = "Olmo3ForCausalLM"
ARCHITECTURES = ("Olmo2ForCausalLM", OLMO3)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, rms_norm_eps=1e-5)
        positions = keys.count("max_position_embeddings", 2048)
        windows: tuple[int | None, ...] = (None,) * sizes["layers"]
        if OLMO3 in keys.get("architectures", ()):
            theta = keys.number("rope_theta", 500_000.0)
            turn, local = two_ropes(keys, positions, theta, theta)
            pattern = ("sliding_attention" if (i + 1) % 4 else "full_attention" for i in range(sizes["layers"]))
            windows = layer_windows(keys, sizes["layers"], keys.nullable_count("sliding_window", 4096), pattern)
        else:
            turn = local = rope(keys, positions)
        biased = ("q", "k", "v", "out") if keys.flag("attention_bias", False) else ()
        keys.expect("clip_qkv")
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            local_rope=local,
            windows=windows,
            scale=sizes["head_dim"] ** -0.5,
            biased=frozenset(biased),
        )
        keys.done()
        return config


WEIGHTS = replace(
    llama.WEIGHTS,
    block={
        **{role: stems for role, stems in llama.WEIGHTS.block.items() if role not in ("attention_norm", "mlp_norm")},
        "q_norm": ("self_attn.q_norm",),
        "k_norm": ("self_attn.k_norm",),
        "after_attention_norm": ("post_attention_layernorm",),
        "after_mlp_norm": ("post_feedforward_layernorm",),
    },
)


class PostNormBlock:
    """x + norm(attention(x)), then x + norm(feed-forward(x))."""

    def __init__(self, build: Build, config: DecoderConfig, part: Parts, attention: Attention) -> None:
        self.ops, self.attention = build.ops, attention
        self.after_attention_norm = Norm(build, part("after_attention_norm"), config.hidden, config.eps)
        self.after_mlp_norm = Norm(build, part("after_mlp_norm"), config.hidden, config.eps)
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self.after_attention_norm(self.attention(x, batch)))
        return self.ops.add(x, self.after_mlp_norm(self.mlp(x)))


class Block(PostNormBlock):
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        q_norm = Norm(build, part("q_norm"), config.heads * config.head_dim, config.eps)
        k_norm = Norm(build, part("k_norm"), config.kv_heads * config.head_dim, config.eps)
        attention = Attention(build, part, config.attention(layer), wide_norms=(q_norm, k_norm))
        super().__init__(build, config, part, attention)


FAMILY = Family(Config, WEIGHTS, Block)
