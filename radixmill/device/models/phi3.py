"""Phi-3, Phi-3.5 and Phi-4 (Abdin et al., 2024, arXiv:2404.14219): the Llama block with queries, keys and values in one matrix
and gate and up in another. Long contexts turn heads by LongRope; Phi-4-mini leaves a quarter of each head unturned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, partial_rope

ARCHITECTURES = ("Phi3ForCausalLM",)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(_with_original(hf), allow_unknown=allow_unknown)
        sizes = dimensions(keys, rms_norm_eps=1e-5)
        positions = keys.count("max_position_embeddings", 4096)
        turn, turned = partial_rope(keys, positions, sizes["head_dim"])
        window = keys.nullable_count("sliding_window", None)
        keys.inert("embd_pdrop", "resid_pdrop", "original_max_position_embeddings")
        for key, value in (
            ("attention_bias", False), ("mlp_bias", False), ("lm_head_bias", False), ("full_attn_mod", 1),
            ("interpolate_factor", 1),
        ):  # fmt: skip
            keys.expect(key, value)
        config = cls(
            **sizes,
            context=positions,
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            turned=turned,
            windows=(window,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
        )
        keys.done()
        return config


WEIGHTS = replace(
    llama.WEIGHTS,
    block={
        "attention_norm": ("input_layernorm",),
        "qkv": ("self_attn.qkv_proj",),
        "out": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "gate_up": ("mlp.gate_up_proj",),
        "down": ("mlp.down_proj",),
    },
)
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)


def _with_original(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The pretrained length stands outside the rope's dictionary, and older files call its kind "yarn" or "su"."""
    original = {"original_max_position_embeddings": hf.get("original_max_position_embeddings", 4096)}
    ropes = {key: hf[key] for key in ("rope_scaling", "rope_parameters") if isinstance(hf.get(key), Mapping)}
    return {**hf, **{key: {**original, **found, **_kind(found)} for key, found in ropes.items()}}


def _kind(found: Mapping[str, Any]) -> dict[str, str]:
    return {"rope_type": "longrope"} if found.get("rope_type", found.get("type")) in ("su", "yarn") else {}
