"""OLMo 2 and OLMo 3 (OLMo team, 2025, arXiv:2501.00656): norms after attention and feed-forward instead of before, and over
all query heads and all key heads at once. OLMo 3 has windows in three of four layers, and stretches the rope of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.layers import Attention, Build, Parts
from radixmill.device.models import llama
from radixmill.device.models.blocks import HEAD_NORMS, PostNormBlock, wide_norms
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, layer_windows, rope, stretched, two_ropes

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
        keys.expect("clip_qkv")
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            local_rope=local,
            windows=windows,
            scale=sizes["head_dim"] ** -0.5,
            biased=attention_biases(keys),
        )
        keys.done()
        return config


WEIGHTS = replace(
    llama.WEIGHTS,
    block={
        **{role: stems for role, stems in llama.WEIGHTS.block.items() if role not in ("attention_norm", "mlp_norm")},
        **HEAD_NORMS,
        "after_attention_norm": ("post_attention_layernorm",),
        "after_mlp_norm": ("post_feedforward_layernorm",),
    },
)


class Block(PostNormBlock):
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        attention = Attention(build, part, config.attention(layer), wide_norms=wide_norms(build, config, part))
        super().__init__(build, config, part, attention)


FAMILY = Family(Config, WEIGHTS, Block)
