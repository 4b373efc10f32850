"""Mistral and Ministral (Jiang et al., 2023, arXiv:2310.06825): the Llama block, with a window over all layers or some.

Checkpoints of the vision models (Mistral Small 3.1 and 3.2) are served as their text half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, layer_windows, rope, stretched, text_keys

ARCHITECTURES = ("MistralForCausalLM", "MinistralForCausalLM", "Mistral3ForConditionalGeneration")
VISION = (
    "image_token_id", "image_token_index", "multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size",
    "vision_feature_layer",
)  # fmt: skip


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = text_keys(hf, allow_unknown, *VISION)
        sizes = dimensions(keys, num_key_value_heads=8)
        positions = keys.count("max_position_embeddings", 131_072)
        turn = rope(keys, positions)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=_windows(keys, sizes["layers"]),
            scale=sizes["head_dim"] ** -0.5,
        )
        keys.done(allow_unknown)
        return config


def _windows(keys: Keys, layers: int) -> tuple[int | None, ...]:
    window = keys.nullable_count("sliding_window", 4096)
    return layer_windows(keys, layers, window, ["full_attention" if window is None else "sliding_attention"] * layers)


WEIGHTS = replace(
    llama.WEIGHTS,
    roots=("model.", "language_model.model.", "model.language_model."),
    heads={"language_model.model.": "language_model.lm_head"},
    inert=(*llama.WEIGHTS.inert, r"^(model\.)?(vision_tower|multi_modal_projector)\."),
)
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)
