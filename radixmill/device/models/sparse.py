"""What the families with mixtures of experts share: which layers have one, and the Llama block around it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Routing
from radixmill.device.layers import MLP, Attention, Build, MoEShape, Parts, SparseMoE
from radixmill.device.models import llama
from radixmill.device.models.blocks import PreNormBlock, head_norms, wide_norms
from radixmill.device.models.decoder import DecoderConfig
from radixmill.device.models.keys import Keys

DENSE = ("gate_up", "down")
SPARSE = (
    "router", "choice_bias", "experts_gate_up", "experts_down", "shared_gate_up", "shared_down", "shared_gate",
)  # fmt: skip
TRAINING = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # keys that change no forward pass


@dataclass(frozen=True, kw_only=True)
class SparseConfig(DecoderConfig):
    """The numbers of one model in which some layers have a mixture of experts."""

    routing: Routing
    expert_inner: int  # of each expert's feed-forward block
    dense: frozenset[int] = frozenset()  # layers with one feed-forward block for all tokens, of `inner`
    biased_choice: bool = False
    shared_inner: int = 0  # of the block beside the experts that every token goes through; 0: there is none
    shared_gate: bool = False
    head_norms: bool = True  # of queries and keys, where the family's table has their roles

    def lacks(self, layer: int) -> Collection[str]:
        absent = [] if self.head_norms else ["q_norm", "k_norm"]
        if layer in self.dense:
            return [*absent, *SPARSE]
        absent += [] if self.biased_choice else ["choice_bias"]
        absent += [] if self.shared_inner else ["shared_gate_up", "shared_down"]
        absent += [] if self.shared_gate else ["shared_gate"]
        return [*absent, *DENSE]

    def expand(self, stem: str) -> Sequence[str]:
        if "{e}" not in stem:
            return (stem,)
        return [stem.replace("{e}", str(expert)) for expert in range(self.routing.experts)]

    @property
    def experts(self) -> MoEShape:
        return MoEShape(
            hidden=self.hidden,
            inner=self.expert_inner,
            routing=self.routing,
            activation=self.activation,
            biased_choice=self.biased_choice,
            shared_inner=self.shared_inner,
            shared_gate=self.shared_gate,
        )


WEIGHTS = replace(
    llama.WEIGHTS,
    block={
        **llama.WEIGHTS.block,
        "router": ("mlp.gate",),
        "experts_gate_up": ("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj"),
        "experts_down": ("mlp.experts.{e}.down_proj",),
    },
)


class Block(PreNormBlock):
    """Llama's, with experts in the layers that have them."""

    def __init__(self, build: Build, config: SparseConfig, part: Parts, layer: int) -> None:
        attention = Attention(build, part, config.attention(layer), head_norms(build, config, part))
        super().__init__(build, config, part, attention, feed_forward(build, config, part))


class WideNormBlock(PreNormBlock):
    """The same, whose norms are of all query heads as one, and of all key heads."""

    def __init__(self, build: Build, config: SparseConfig, part: Parts, layer: int) -> None:
        attention = Attention(build, part, config.attention(layer), wide_norms=wide_norms(build, config, part))
        super().__init__(build, config, part, attention, feed_forward(build, config, part))


def feed_forward(build: Build, config: SparseConfig, part: Parts) -> MLP | SparseMoE:
    """What this layer has."""
    if part.has("router"):
        return SparseMoE(build, part, config.experts)
    return MLP(build, part, config.hidden, config.inner, config.activation)


def checked(keys: Keys, routing: Routing) -> Routing:
    """Raises BadModel where a token could not choose so."""
    each, rest = divmod(routing.experts, routing.groups)
    if (
        rest
        or routing.top_groups > routing.groups
        or (routing.group_score == "top2" and routing.groups > 1 and each < 2)
    ):
        raise BadModel(
            f"{keys.where}: {routing.experts} experts in {routing.groups} groups of which {routing.top_groups} are chosen"
        )
    if routing.top > each * routing.top_groups:
        raise BadModel(f"{keys.where}: {routing.top} experts of {each * routing.top_groups} are to be chosen")
    return routing


def sigmoid(
    keys: Keys, *, experts: int | None = None, top: int | None = None, renormalise: bool = True, scaling: float = 1.0,
    groups: int = 1, top_groups: int = 1,
) -> Routing:  # fmt: skip
    """DeepSeek-V3's way to choose: by the sigmoid of scores, from the groups whose best two are best together. The numbers
    are the family's own, where the configuration leaves them out."""
    routing = Routing(
        experts=keys.count("n_routed_experts", experts),
        top=keys.count("num_experts_per_tok", top),
        score="sigmoid",
        renormalise=keys.flag("norm_topk_prob", renormalise),
        scaling=keys.number("routed_scaling_factor", scaling),
        groups=keys.count("n_group", groups),
        top_groups=keys.count("topk_group", top_groups),
        group_score="top2",
    )
    return checked(keys, routing)


def count_of_experts(keys: Keys, default: int) -> int:
    """`num_experts`, or `num_local_experts` as other versions call it."""
    return keys.count("num_experts", keys.count("num_local_experts", default))


def bottom_layers(keys: Keys, layers: int, default: int) -> frozenset[int]:
    """The first `first_k_dense_replace` layers."""
    return frozenset(range(min(keys.natural("first_k_dense_replace", default), layers)))


def stepped_layers(keys: Keys, layers: int) -> frozenset[int]:
    """Layers without experts as the Qwen families list them: `mlp_only_layers`, and all but each `decoder_sparse_step`-th."""
    step, listed = keys.count("decoder_sparse_step", 1), keys.get("mlp_only_layers", [])
    if not isinstance(listed, list) or not all(type(i) is int for i in listed):
        raise BadModel(f"{keys.where}: mlp_only_layers is {listed!r}, not a list of layers")
    return frozenset(i for i in range(layers) if i in listed or (i + 1) % step)
