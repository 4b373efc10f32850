"""SmolLM3 (the card of HuggingFaceTB/SmolLM3-3B): the Llama block; every fourth layer turns no head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.core.errors import BadModel
from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, layer_windows, llama_biases, rope, stretched

ARCHITECTURES = ("SmolLM3ForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=4, tie_word_embeddings=True)
        positions = keys.count("max_position_embeddings", 32_768)
        turn = rope(keys, positions, 2_000_000.0)
        unturned = _unturned(keys, sizes["layers"])
        window = keys.nullable_count("sliding_window", None)
        if not keys.flag("use_sliding_window", False):
            window = None
        keys.inert("max_window_layers")  # unturned layers are those that may have one
        pattern = ("sliding_attention" if i in unturned else "full_attention" for i in range(sizes["layers"]))
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            unturned=unturned,
            windows=layer_windows(keys, sizes["layers"], window, pattern),
            scale=sizes["head_dim"] ** -0.5,
            biased=llama_biases(keys),
        )
        keys.done()
        return config


def _unturned(keys: Keys, layers: int) -> frozenset[int]:
    """`no_rope_layers` has a 1 for each layer that does turn its heads."""
    every = keys.count("no_rope_layer_interval", 4)
    turns = keys.get("no_rope_layers", [int((i + 1) % every != 0) for i in range(layers)])
    if not isinstance(turns, list) or len(turns) < layers or not set(turns) <= {0, 1}:
        raise BadModel(f"{keys.where}: no_rope_layers is {turns!r}, not a 0 or 1 for each of {layers} layers")
    return frozenset(i for i in range(layers) if not turns[i])


WEIGHTS = llama.WEIGHTS
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)
