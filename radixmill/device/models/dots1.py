"""dots.llm1 (rednote-hilab, 2025, arXiv:2506.05767): the Qwen3 block with experts chosen as DeepSeek-V3 chooses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from radixmill.device.models import glm4_moe, sparse
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, layer_windows, rope, stretched
from radixmill.device.models.sparse import SparseConfig, bottom_layers, sigmoid

ARCHITECTURES = ("Dots1ForCausalLM",)


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys)
        positions = keys.count("max_position_embeddings", 2048)
        turn = rope(keys, positions)
        inner = keys.count("moe_intermediate_size", 1408)
        keys.expect("scoring_func", "noaux_tc", "sigmoid")
        keys.expect("moe_layer_freq", 1)
        keys.inert(*sparse.TRAINING)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=_windows(keys, sizes["layers"]),
            scale=sizes["head_dim"] ** -0.5,
            biased=attention_biases(keys),
            routing=sigmoid(keys, renormalise=False),
            expert_inner=inner,
            dense=bottom_layers(keys, sizes["layers"], 0),
            biased_choice=True,
            shared_inner=inner * keys.count("n_shared_experts"),
        )
        keys.done()
        return config


def _windows(keys: Keys, layers: int) -> tuple[int | None, ...]:
    """Of the layers from max_window_layers on."""
    window, first = keys.nullable_count("sliding_window", 4096), keys.get("max_window_layers", 62)
    pattern = ("sliding_attention" if window and i >= first else "full_attention" for i in range(layers))
    return layer_windows(keys, layers, window, pattern)


WEIGHTS = glm4_moe.WEIGHTS
Block = sparse.Block
FAMILY = Family(Config, WEIGHTS, Block)
