"""Granite 3 mixtures of experts (IBM, Granite 3.0 Language Models, 2024): Granite's four multipliers around the Mixtral block,
some with a block beside the experts that every token goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.layers import Build, Parts
from radixmill.device.models import sparse
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, rope, stretched
from radixmill.device.models.sparse import SparseConfig, checked, count_of_experts

ARCHITECTURES = ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM")


@dataclass(frozen=True, kw_only=True)
class Config(SparseConfig):
    residual_scale: float  # of what each half of a block adds

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys)
        positions = keys.count("max_position_embeddings", 2048)
        turn = rope(keys, positions)
        # The softmax of the chosen experts' logits is that of all, divided by their sum.
        routing = Routing(
            experts=count_of_experts(keys, 8),
            top=keys.count("num_experts_per_tok", 2),
            score="softmax",
            renormalise=True,
        )
        keys.inert(*sparse.TRAINING)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            windows=(None,) * sizes["layers"],
            scale=keys.number("attention_multiplier", 1.0),
            logit_scale=1 / keys.number("logits_scaling", 1.0),
            embed_scale=keys.number("embedding_multiplier", 1.0),
            residual_scale=keys.number("residual_multiplier", 1.0),
            biased=attention_biases(keys),
            routing=checked(keys, routing),
            expert_inner=sizes["inner"],
            shared_inner=keys.natural("shared_intermediate_size", 0),
        )
        keys.done()
        return config


WEIGHTS = replace(
    sparse.WEIGHTS,
    block={
        **sparse.WEIGHTS.block,
        "router": ("mlp.router.layer",),
        "shared_gate_up": ("shared_mlp.input_linear",),
        "shared_down": ("shared_mlp.output_linear",),
    },
    instead={"shared_gate_up": {"shared_gate_up": ("shared_mlp.gate_proj", "shared_mlp.up_proj")}},
)


class Block(sparse.Block):
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        super().__init__(build, config, part, layer)
        self.residual = config.residual_scale


FAMILY = Family(Config, WEIGHTS, Block)
