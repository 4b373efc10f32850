"""Gemma 3, the text model (Gemma team, 2025, arXiv:2503.19786): Gemma 2's block with a norm on each query and key head
instead of soft-caps, and windowed layers that turn their heads by a rope of their own.

Checkpoints of the vision model are served as their text half; the vision tower is left in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.models import gemma2
from radixmill.device.models.blocks import HEAD_NORMS
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import attention_biases, dimensions, layer_windows, stretched, text_keys, two_ropes

ARCHITECTURES = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")

VISION = ("boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image")
# What a text_config may leave out.
DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
}


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = text_keys(hf, allow_unknown, *VISION)
        sizes = dimensions(keys, **DEFAULTS)
        positions = keys.count("max_position_embeddings", 131_072)
        theta, local_theta = keys.number("rope_theta", 1_000_000.0), keys.number("rope_local_base_freq", 10_000.0)
        turn, local = two_ropes(keys, positions, theta, local_theta)
        pattern = keys.count("sliding_window_pattern", keys.count("_sliding_window_pattern", 6))
        kinds = ("sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(sizes["layers"]))
        keys.expect("use_bidirectional_attention", False)
        keys.expect("attn_logit_softcapping")
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_activation", "gelu_pytorch_tanh"),
            rope=turn,
            local_rope=local,
            windows=layer_windows(keys, sizes["layers"], keys.count("sliding_window", 4096), kinds),
            scale=keys.number("query_pre_attn_scalar", 256) ** -0.5,
            logit_softcap=keys.nullable_number("final_logit_softcapping", None),
            embed_scale=sizes["hidden"] ** 0.5,
            norms_plus_one=True,
            biased=attention_biases(keys),
        )
        keys.done()
        return config


WEIGHTS = replace(
    gemma2.WEIGHTS,
    block={**gemma2.WEIGHTS.block, **HEAD_NORMS},
    roots=("model.", "language_model.model.", "model.language_model."),
    inert=(*gemma2.WEIGHTS.inert, r"^(model\.)?(vision_tower|multi_modal_projector)\."),
)
Block = gemma2.Block
FAMILY = Family(Config, WEIGHTS, Block)
