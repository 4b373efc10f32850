"""DeepSeek-V2 and V2-Lite (DeepSeek-AI, 2024, arXiv:2405.04434): latent attention, and from some layer on a mixture of
experts whose scores are a softmax. V3 and its kin say in files of their own how they choose experts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import AttentionParams, KVShape, Routing
from radixmill.device.layers import MLA, Build, LatentShape, Parts
from radixmill.device.layers.rope import yarn_magnitude
from radixmill.device.models.blocks import PreNormBlock
from radixmill.device.models.decoder import Family, Names
from radixmill.device.models.keys import Keys, dimensions, rope, rope_parameters, stretched
from radixmill.device.models.sparse import TRAINING, SparseConfig, bottom_layers, checked, feed_forward

ARCHITECTURES = ("DeepseekV2ForCausalLM",)
LATENT_EPS = 1e-6  # of the norms of latents, whatever rms_norm_eps says


@dataclass(frozen=True, kw_only=True)
class LatentConfig(SparseConfig):
    """The numbers of a model of latent attention and a mixture of experts."""

    nope: int  # numbers of a query head that do not turn
    rope_dim: int  # … and that do
    value_dim: int  # of a head
    rank: int  # of the latent
    q_rank: int  # of the queries' latent; 0: they have none

    def latent(self, layer: int) -> LatentShape:
        return LatentShape(
            hidden=self.hidden,
            heads=self.heads,
            nope=self.nope,
            rope=self.rope_dim,
            value=self.value_dim,
            rank=self.rank,
            q_rank=self.q_rank,
            eps=LATENT_EPS,
            turn=self.rope,
            interleaved=self.interleaved,
            params=AttentionParams(self.scale),
            layer=layer,
        )

    def kv(self, layer: int) -> KVShape:
        return KVShape(1, self.rank + self.rope_dim, self.rank, latent=True)

    def lacks(self, layer: int) -> Collection[str]:
        return [*super().lacks(layer), *(["q"] if self.q_rank else ["q_down", "q_norm", "q_up"])]

    def expand(self, stem: str) -> Sequence[str]:
        if "{h}" in stem:
            return [stem.replace("{h}", str(head)) for head in range(self.heads)]
        return super().expand(stem)


class Config(LatentConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        routing = _softmax(keys)
        numbers = latent_numbers(keys, q_lora_rank=1536, max_position_embeddings=2048)
        config = cls(
            **numbers,
            **expert_sizes(keys, 2),
            dense=leading_dense(keys, numbers["layers"], 0),
            routing=routing,
            interleaved=True,
        )
        keys.done()
        return config


def latent_numbers(keys: Keys, **default: Any) -> dict[str, Any]:
    """The fields that all of this kin spell alike. `default`: by config.json's names, where they may lack."""
    nope, turned = (
        keys.count("qk_nope_head_dim", default.get("qk_nope_head_dim", 128)),
        keys.count("qk_rope_head_dim", 64),
    )
    own = {key: default[key] for key in ("rms_norm_eps", "tie_word_embeddings") if key in default}
    sizes = dimensions(keys, head_dim=turned, **own)
    keys.expect("num_key_value_heads", sizes["heads"])
    keys.expect("head_dim", turned, nope + turned)
    keys.expect("qk_head_dim", nope + turned)
    keys.inert(*TRAINING, "aux_loss_alpha", "ep_size", "seq_aux")
    if turned % 2:
        raise BadModel(f"{keys.where}: qk_rope_head_dim is {turned}; rotary embedding needs an even one")
    positions = keys.count("max_position_embeddings", default["max_position_embeddings"])
    turn = rope(keys, positions)
    rank, q_rank = keys.count("kv_lora_rank", 512), keys.nullable_count("q_lora_rank", default["q_lora_rank"])
    return {
        **sizes,
        "kv_heads": 1,
        "head_dim": rank + turned,
        "context": stretched(turn, positions),
        "activation": keys.activation("hidden_act", "silu"),
        "rope": turn,
        "windows": (None,) * sizes["layers"],
        "scale": (nope + turned) ** -0.5 * _sharpening(keys),
        "biased": _biased(keys),
        "nope": nope,
        "rope_dim": turned,
        "value_dim": keys.count("v_head_dim", default.get("v_head_dim", 128)),
        "rank": rank,
        "q_rank": q_rank or 0,
    }


def expert_sizes(keys: Keys, shared: int) -> dict[str, Any]:
    """Of each expert, and of the block that every token goes through: so many experts' (null: no such block)."""
    inner, found = keys.count("moe_intermediate_size"), keys.nullable("n_shared_experts", shared)
    count = 0 if found in (0, None) else keys.count("n_shared_experts", shared)
    return {"expert_inner": inner, "shared_inner": inner * count}


def leading_dense(keys: Keys, layers: int, default: int) -> frozenset[int]:
    """Layers without experts: the first `first_k_dense_replace`, and of the rest all but each `moe_layer_freq`-th."""
    every = keys.count("moe_layer_freq", 1)
    return bottom_layers(keys, layers, default) | {i for i in range(layers) if i % every}


def _softmax(keys: Keys) -> Routing:
    keys.expect("scoring_func", "softmax")
    keys.expect("topk_method", "greedy", "group_limited_greedy")
    limited = keys.get("topk_method", "greedy") == "group_limited_greedy"
    groups, top_groups = keys.nullable_count("n_group", None), keys.nullable_count("topk_group", None)
    renormalise, scaling = keys.flag("norm_topk_prob", False), keys.number("routed_scaling_factor", 1.0)
    if renormalise and scaling != 1.0:
        # DeepSeek's own code then leaves the scaling out, others do not, and no published model says it.
        raise BadModel(f"{keys.where}: norm_topk_prob with a routed_scaling_factor of {scaling} is not supported")
    routing = Routing(
        experts=keys.count("n_routed_experts", 64),
        top=keys.count("num_experts_per_tok"),
        score="softmax",
        renormalise=renormalise,
        scaling=scaling,
        groups=(groups or 1) if limited else 1,
        top_groups=(top_groups or 1) if limited else 1,
    )
    return checked(keys, routing)


def _sharpening(keys: Keys) -> float:
    """What YaRN's `mscale_all_dim` multiplies scores by: the square of its magnitude."""
    found = rope_parameters(keys)
    all_dim = found.get("mscale_all_dim")
    return yarn_magnitude(found.get("factor", 1.0), all_dim) ** 2 if all_dim else 1.0


def _biased(keys: Keys) -> frozenset[str]:
    attention = {"q_down", "kv_down", "out"} if keys.flag("attention_bias", False) else set()
    mlp = {"gate_up", "down", "shared_gate_up", "shared_down"} if keys.flag("mlp_bias", False) else set()
    return frozenset(attention | mlp)


WEIGHTS = Names(
    block={
        "attention_norm": ("input_layernorm",),
        "q": ("self_attn.q_proj",),
        "q_down": ("self_attn.q_a_proj",),
        "q_norm": ("self_attn.q_a_layernorm",),
        "q_up": ("self_attn.q_b_proj",),
        "kv_down": ("self_attn.kv_a_proj_with_mqa",),
        "kv_norm": ("self_attn.kv_a_layernorm",),
        "kv_up": ("self_attn.kv_b_proj",),
        "out": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
        "router": ("mlp.gate",),
        "choice_bias": ("mlp.gate.e_score_correction_bias",),
        "experts_gate_up": ("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj"),
        "experts_down": ("mlp.experts.{e}.down_proj",),
        "shared_gate_up": ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
        "shared_down": ("mlp.shared_experts.down_proj",),
    },
    bare=frozenset({"choice_bias"}),
    instead={"kv_up": {"k_up": ("self_attn.kv_b_proj.k.{h}",), "v_up": ("self_attn.kv_b_proj.v.{h}",)}},
)


class Block(PreNormBlock):
    def __init__(self, build: Build, config: LatentConfig, part: Parts, layer: int) -> None:
        attention = MLA(build, part, config.latent(layer))
        super().__init__(build, config, part, attention, feed_forward(build, config, part))


FAMILY = Family(Config, WEIGHTS, Block)
