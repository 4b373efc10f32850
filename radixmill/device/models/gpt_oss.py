"""gpt-oss (OpenAI, 2025, arXiv:2508.10925): sinks in attention, every other layer windowed, biases everywhere, clamped experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.kernels.contract import Routing
from radixmill.device.models import sparse
from radixmill.device.models.decoder import Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, layer_windows, rope, rope_spec, stretched
from radixmill.device.models.sparse import SparseConfig, checked, count_of_experts

ARCHITECTURES = ("GptOssForCausalLM",)
YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}


class Config(SparseConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        sizes = dimensions(keys, num_key_value_heads=8, head_dim=64, rms_norm_eps=1e-5)
        positions = keys.count("max_position_embeddings", 131_072)
        turn = rope(keys, positions, 150_000.0)
        if not (keys.get("rope_scaling") or keys.get("rope_parameters")):
            turn = rope_spec(keys, YARN, turn.theta, positions)
        top = keys.count("num_experts_per_tok", 4)
        # The softmax of the chosen experts' logits is that of all, divided by their sum.
        routing = Routing(experts=count_of_experts(keys, 128), top=top, score="softmax", renormalise=True)
        pattern = ("full_attention" if i % 2 else "sliding_attention" for i in range(sizes["layers"]))
        keys.expect("experts_per_token", top)
        keys.expect("hidden_act", "silu")
        keys.expect("swiglu_alpha", 1.702)
        keys.expect("swiglu_limit", 7.0)
        keys.inert(*sparse.TRAINING, "initial_context_length")  # the rope's parameters say it
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation="clamped",
            rope=turn,
            windows=layer_windows(keys, sizes["layers"], keys.nullable_count("sliding_window", 128), pattern),
            scale=sizes["head_dim"] ** -0.5,
            sinks=True,
            biased=attention_biases(keys, True) | {"router", "experts_gate_up", "experts_down"},
            routing=checked(keys, routing),
            expert_inner=sizes["inner"],
        )
        keys.done()
        return config


WEIGHTS = replace(
    sparse.WEIGHTS,
    block={**sparse.WEIGHTS.block, "router": ("mlp.router",), "sinks": ("self_attn.sinks",)},
    bare=frozenset({"sinks"}),
)
Block = sparse.Block
FAMILY = Family(Config, WEIGHTS, Block)
