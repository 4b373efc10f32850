"""EXAONE 4 (LG AI Research, 2025, arXiv:2507.11407): OLMo 2's block with a norm on each query and key head. Where some layers
have a window, the others turn no head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.core.errors import BadModel
from radixmill.device.layers import Attention, Build, Parts
from radixmill.device.models import olmo2
from radixmill.device.models.blocks import PostNormBlock, head_norms
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, layer_windows, rope, stretched

ARCHITECTURES = ("Exaone4ForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=32, rms_norm_eps=1e-5)
        positions = keys.count("max_position_embeddings", 2048)
        turn = rope(keys, positions)
        window = keys.nullable_count("sliding_window", 4096)
        windows = layer_windows(keys, sizes["layers"], window, _pattern(keys, sizes["layers"], window))
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=windows,
            unturned=frozenset(i for i, one in enumerate(windows) if window is not None and one is None),
            scale=sizes["head_dim"] ** -0.5,
        )
        keys.done()
        return config


def _pattern(keys: Keys, layers: int, window: int | None) -> list[str]:
    """`sliding_window_pattern`: the last of every so many layers is full; or a letter for each, repeated."""
    letters = keys.get("sliding_window_pattern", 4)
    if window is None:
        return ["full_attention"] * layers
    if isinstance(letters, int) and letters > 0:
        letters = "L" * (letters - 1) + "G"
    if not isinstance(letters, str) or not letters or not set(letters) <= {"L", "G"}:
        raise BadModel(f"{keys.where}: sliding_window_pattern is {letters!r}, neither a number nor letters L and G")
    return ["sliding_attention" if letters[i % len(letters)] == "L" else "full_attention" for i in range(layers)]


WEIGHTS = olmo2.WEIGHTS


class Block(PostNormBlock):
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        attention = Attention(build, part, config.attention(layer), head_norms(build, config, part))
        super().__init__(build, config, part, attention)


FAMILY = Family(Config, WEIGHTS, Block)
