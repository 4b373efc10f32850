"""Gemma 3, the text model (Gemma team, 2025, arXiv:2503.19786): Gemma 2's block with a norm on each query and key head
instead of soft-caps, and windowed layers that turn their heads by a rope of their own.

Checkpoints of the vision model are served as their text half; the vision tower is left in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLP, Attention, Build, ForwardBatch, Norm, Parts, RopeSpec
from radixmill.device.models import gemma2
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, dimensions, layer_windows, rope_spec, stretched

ARCHITECTURES = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")

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
        keys = _text_keys(hf, allow_unknown)
        sizes = dimensions(keys, **DEFAULTS)
        positions = keys.count("max_position_embeddings", 131_072)
        turn, local = _ropes(keys, positions)
        pattern = keys.count("sliding_window_pattern", keys.count("_sliding_window_pattern", 6))
        kinds = ("sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(sizes["layers"]))
        biased = ("q", "k", "v", "out") if keys.flag("attention_bias", False) else ()
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
            biased=frozenset(biased),
        )
        keys.done(allow_unknown)
        return config


WEIGHTS = replace(
    gemma2.WEIGHTS,
    block={**gemma2.WEIGHTS.block, "q_norm": ("self_attn.q_norm",), "k_norm": ("self_attn.k_norm",)},
    roots=("model.", "language_model.model.", "model.language_model."),
    inert=(*gemma2.WEIGHTS.inert, r"^(model\.)?(vision_tower|multi_modal_projector)\."),
)


class Block:
    def __init__(self, build: Build, config: Config, part: Parts, layer: int) -> None:
        def norm(role: str, size: int = config.hidden) -> Norm:
            return Norm(build, part(role), size, config.eps, plus_one=True)

        self.ops = build.ops
        self.attention_norm, self.after_attention_norm = norm("attention_norm"), norm("after_attention_norm")
        self.mlp_norm, self.after_mlp_norm = norm("mlp_norm"), norm("after_mlp_norm")
        heads = norm("q_norm", config.head_dim), norm("k_norm", config.head_dim)
        self.attention = Attention(build, part, config.attention(layer), heads)
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self.after_attention_norm(self.attention(self.attention_norm(x), batch)))
        return self.ops.add(x, self.after_mlp_norm(self.mlp(self.mlp_norm(x))))


FAMILY = Family(Config, WEIGHTS, Block)


def _text_keys(hf: Mapping[str, Any], allow_unknown: bool) -> Keys:
    """The text model's keys; a vision model has them under text_config."""
    outer = Keys(hf)
    text = outer.get("text_config")
    if text is None:
        return outer
    if not isinstance(text, Mapping):
        raise BadModel(f"config.json: text_config is {text!r}, not a dictionary")
    outer.inert("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index")
    outer.expect("tie_word_embeddings", text.get("tie_word_embeddings", True))
    outer.done(allow_unknown)
    return Keys(text, "config.json, text_config")


def _ropes(keys: Keys, positions: int) -> tuple[RopeSpec, RopeSpec]:
    """(full layers', windowed layers'): one dictionary each in rope_parameters, or the older flat keys."""
    theta = keys.number("rope_theta", 1_000_000.0)
    local = keys.number("rope_local_base_freq", 10_000.0)
    both, old = keys.get("rope_parameters", {}), keys.get("rope_scaling", {})
    if unknown := sorted(set(both) - {"full_attention", "sliding_attention"}):
        raise BadModel(f"{keys.where}: rope_parameters has {', '.join(unknown)} where it should name kinds of layers")
    full = {**(both.get("full_attention") or {}), **old}
    return rope_spec(full, theta, positions), rope_spec(both.get("sliding_attention") or {}, local, positions)
