"""Mistral, Ministral and Devstral (Jiang et al., 2023, arXiv:2310.06825): the Llama block, with a window over all layers or
some. In the third generation of Ministral, queries grow with their position.

Checkpoints of the vision models (Mistral Small 3.1 and 3.2, Ministral 3) are served as their text half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.layers import Growth
from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, layer_windows, rope, rope_parameters, stretched, text_keys

MINISTRAL3 = "Ministral3ForCausalLM"
ARCHITECTURES = ("MistralForCausalLM", "MinistralForCausalLM", MINISTRAL3, "Mistral3ForConditionalGeneration")
VISION = (
    "image_token_id", "image_token_index", "multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size",
    "vision_feature_layer",
)  # fmt: skip


# What Ministral 3's files may leave out, where that is not what Mistral's may.
THIRD = {
    "max_position_embeddings": 262_144, "rms_norm_eps": 1e-5, "head_dim": 128, "sliding_window": None,
    "rope_parameters": {
        "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16_384, "beta_fast": 32.0,
        "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
    },
}  # fmt: skip


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = text_keys(hf, allow_unknown, *VISION)
        third = MINISTRAL3 in keys.get("architectures", ()) or keys.get("model_type") == "ministral3"
        if third:
            keys = Keys({**THIRD, **keys.values}, keys.where, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=8)
        positions = keys.count("max_position_embeddings", 131_072)
        turn = rope(keys, positions, 10_000.0, *(("llama_4_scaling_beta", "max_position_embeddings") if third else ()))
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            growth=_growth(keys) if third else None,
            windows=_windows(keys, sizes["layers"]),
            scale=sizes["head_dim"] ** -0.5,
        )
        keys.done()
        return config


def _growth(keys: Keys) -> Growth | None:
    """It stands among the rope's parameters."""
    parameters = Keys(rope_parameters(keys), f"{keys.where}, rope parameters")
    if parameters.get("llama_4_scaling_beta") is None:
        return None
    return Growth(parameters.number("llama_4_scaling_beta", 0.1), parameters.count("original_max_position_embeddings"))


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
