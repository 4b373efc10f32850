"""Cohere Command R and Aya (Cohere, 2025, arXiv:2504.00698): layer norms without a bias, attention and feed-forward side by
side on one norm, neighbours turn together. Command R7B and Command A turn heads in windowed layers only; the others see everything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLP, Attention, Build, ForwardBatch, LayerNorm, Parts
from radixmill.device.models import llama
from radixmill.device.models.blocks import HEAD_NORMS
from radixmill.device.models.decoder import DecoderConfig, Family, norm
from radixmill.device.models.keys import Keys, attention_biases, dimensions, layer_windows, rope, stretched

COHERE2 = "Cohere2ForCausalLM"
ARCHITECTURES = ("CohereForCausalLM", COHERE2)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    head_norms: bool  # each query and key head has a layer norm

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        second = COHERE2 in keys.get("architectures", ())
        sizes = {
            **dimensions(keys, tie_word_embeddings=True),
            "eps": keys.number("layer_norm_eps", 1e-5),
        }
        positions = keys.count("max_position_embeddings", 8192)
        turn = rope(keys, positions, 10_000.0 if second else 500_000.0)
        windows = _windows(keys, sizes["layers"]) if second else (None,) * sizes["layers"]
        config = cls(
            **sizes,
            context=keys.count("model_max_length", stretched(turn, positions)),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            interleaved=True,
            windows=windows,
            unturned=frozenset(i for i, window in enumerate(windows) if second and window is None),
            scale=sizes["head_dim"] ** -0.5,
            logit_scale=keys.number("logit_scale", 0.0625),
            layer_norms=True,
            head_norms=not second and keys.flag("use_qk_norm", False),
            biased=attention_biases(keys),
        )
        keys.done()
        return config

    def lacks(self, layer: int) -> Collection[str]:
        return () if self.head_norms else ("q_norm", "k_norm")


def _windows(keys: Keys, layers: int) -> tuple[int | None, ...]:
    """Of the second generation, whose files tell again what the architecture's name says."""
    for key, value in (
        ("order_of_interleaved_layers", "local_attn_first"),
        ("position_embedding_type", "rope_gptj"),
        ("rotary_pct", 1.0),
        ("use_embedding_sharing", True),
        ("use_gated_activation", True),
        ("use_parallel_block", True),
    ):
        keys.expect(key, value)
    keys.inert("use_parallel_embedding")  # how it was trained
    every = keys.count("sliding_window_pattern", keys.count("_sliding_window_pattern", 4))
    keys.expect("layer_switch", every)
    pattern = ("sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers))
    return layer_windows(keys, layers, keys.nullable_count("sliding_window", 4096), pattern)


WEIGHTS = replace(
    llama.WEIGHTS,
    block={
        **{role: stems for role, stems in llama.WEIGHTS.block.items() if role not in ("attention_norm", "mlp_norm")},
        "norm": ("input_layernorm",),
        **HEAD_NORMS,
    },
)


class Block:
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        shape = config.attention(layer)

        def head_norm(role: str, heads: int) -> LayerNorm:
            return LayerNorm(build, part(role), config.head_dim, config.eps, heads, shape.order(heads))

        norms = (head_norm("q_norm", config.heads), head_norm("k_norm", config.kv_heads)) if config.head_norms else None
        self.ops = build.ops
        self.norm = norm(build, part("norm"), config)
        self.attention = Attention(build, part, shape, wide_norms=norms)
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        normed = self.norm(x)
        x = self.ops.add(x, self.attention(normed, batch))
        return self.ops.add(x, self.mlp(normed))


FAMILY = Family(Config, WEIGHTS, Block)
