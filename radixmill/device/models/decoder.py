"""What the decoder families share: the numbers, the names of their tensors, and the walk from ids to logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Activation, Array, AttentionParams, KVShape, Weight
from radixmill.device.layers import (
    AttentionShape,
    Build,
    Embedding,
    ForwardBatch,
    Growth,
    Head,
    LayerNorm,
    Norm,
    Part,
    Parts,
    RopeSpec,
)

# Scales for a cache of 8-bit floats, as files of such weights have them beside attention or its projections.
KV_SCALES = r"((attn|attention|_proj)\.(q|k|v|kv|prob)_scale|[kv]_proj\.output_scale)$"


@dataclass(frozen=True)
class LayerGroup:
    """Layers whose keys and values live and die together."""

    layers: tuple[int, ...]
    window: int | None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The numbers of one model. A family's `Config` derives from it and reads them from config.json."""

    vocab: int
    hidden: int
    inner: int  # of the feed-forward block
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    context: int  # positions the model was made for
    tied: bool  # the head is the embedding
    activation: Activation
    rope: RopeSpec
    local_rope: RopeSpec | None = None  # of layers with a window, where they have their own
    local: frozenset[int] = frozenset()  # layers that turn by it, though their window has gone
    unturned: frozenset[int] = frozenset()  # layers without a rope
    turned: int | None = None  # of a head's numbers the first so many turn; None: all
    interleaved: bool = False  # neighbours turn together, in the order of the checkpoint's rows
    windows: tuple[int | None, ...]  # per layer
    scale: float  # of attention scores
    softcap: float | None = None  # of attention scores
    sinks: bool = False  # each query head has one
    growth: Growth | None = None  # of queries, by their position
    logit_softcap: float | None = None
    logit_scale: float = 1.0
    embed_scale: float = 1.0
    norms_plus_one: bool = False  # norms multiply by 1 + w
    layer_norms: bool = False  # norms take the mean away first
    biased: frozenset[str] = frozenset()  # roles in a block whose products add a bias
    spare_layers: int = 0  # so many after the last, for guessing several tokens at once, may lie in the file unused

    def attention(self, layer: int) -> AttentionShape:
        window = self.windows[layer]
        rope = self.local_rope if self.local_rope and self._is_local(layer) else self.rope
        return AttentionShape(
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            dim=self.head_dim,
            rope=None if layer in self.unturned else rope,
            params=AttentionParams(self.scale, window, self.softcap),
            layer=layer,
            group=self.group(layer),
            turned=self.turned,
            interleaved=self.interleaved,
            sinks=self.sinks,
            growth=self.growth,
        )

    def settled(self, positions: int) -> Self:
        """The same, with what depends on the longest sequence there may be decided: ropes, and whether windows are
        ever full. Those that are not have gone."""
        return replace(
            self,
            rope=self.rope.settled(positions),
            local_rope=self.local_rope.settled(positions) if self.local_rope else None,
            local=frozenset(i for i in range(self.layers) if self.local_rope and self._is_local(i)),
            windows=tuple(w if w is not None and w < positions else None for w in self.windows),
        )

    def _is_local(self, layer: int) -> bool:
        return layer in self.local or self.windows[layer] is not None

    def lacks(self, layer: int) -> Collection[str]:
        """Roles of the family's that this layer has not."""
        return ()

    def expand(self, stem: str) -> Sequence[str]:
        """The stems that one of a family's stands for: of every expert where it says {e}, of every head where {h}."""
        return (stem,)

    def kv(self, layer: int) -> KVShape:
        """What a layer keeps of a token."""
        return KVShape(self.kv_heads, self.head_dim, self.head_dim)

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """By their window. The first has none; it may have no layers, and is there for who keeps count of pages."""
        found = sorted({window for window in self.windows if window is not None})
        return tuple(
            LayerGroup(tuple(i for i, one in enumerate(self.windows) if one == window), window)
            for window in (None, *found)
        )

    def group(self, layer: int) -> int:
        return next(i for i, group in enumerate(self.groups) if layer in group.layers)


@dataclass(frozen=True)
class Names:
    """Which tensors a family has: stems, to which `.weight` and, for biased roles, `.bias` are added."""

    block: Mapping[str, tuple[str, ...]]  # role → stems within "layers.{i}."
    bare: frozenset[str] = frozenset()  # roles whose stems are whole names
    roots: tuple[str, ...] = ("model.",)  # what may stand before all but the head's name
    embed: str = "embed_tokens"
    norm: str = "norm"
    head: str = "lm_head"
    heads: Mapping[str, str] = field(default_factory=dict)  # by root, where the head has another name
    inert: tuple[str, ...] = (
        r"rotary_emb\.inv_freq$",
        KV_SCALES,
    )  # patterns of tensors that a forward pass doesn't need
    # Role → roles that some checkpoints have in its place.
    instead: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def fitting(self, config: DecoderConfig, names: Collection[str]) -> Names:
        """With the roles that this checkpoint has in the place of others."""
        block = dict(self.block)
        for role, others in self.instead.items():
            stems = [config.expand(stem)[0] for each in others.values() for stem in each]
            if any(name.endswith(tuple(f".{stem}.weight" for stem in stems)) for name in names):
                block = {**{name: block[name] for name in block if name != role}, **others}
        return replace(self, block=block, instead={})

    def root(self, names: Collection[str]) -> str:
        """The root that this checkpoint uses."""
        return next((root for root in self.roots if f"{root}{self.embed}.weight" in names), self.roots[0])

    def head_under(self, root: str) -> str:
        return self.heads.get(root, self.head)

    def part(self, config: DecoderConfig, root: str, layer: int, role: str) -> Part:
        many = [config.expand(stem) for stem in self.block[role]]
        stems = tuple(f"{root}layers.{layer}.{stem}" for each in zip(*many, strict=True) for stem in each)
        return Part(stems, role in config.biased, role in self.bare)

    def roles(self, config: DecoderConfig, layer: int) -> list[str]:
        """What a layer has."""
        lacking = config.lacks(layer)
        return [role for role in self.block if role not in lacking]

    def check(
        self, config: DecoderConfig, names: Collection[str], inert: Callable[[str], bool] = lambda name: False
    ) -> tuple[str, ...]:
        """The tensors among `names` that a forward pass doesn't need: by their name, or `inert` says so of those that
        nothing would use. Raises BadModel that names the rest of these, or those missing."""
        wanted = self.fitting(config, names).wanted(config, self.root(names))
        patterns = (
            *self.inert,
            *_spare(config),
            *([rf"(^|\.){self.head}\.weight$"] if config.tied else []),
        )
        if missing := sorted(wanted - set(names)):
            raise BadModel(f"the model's files lack {_some(missing)}", "Fetch them again, or check config.json")
        ignored = sorted(n for n in set(names) - wanted if any(re.search(p, n) for p in patterns) or inert(n))
        if unused := sorted(set(names) - wanted - set(ignored)):
            raise BadModel(f"the model's files hold {_some(unused)} that its architecture does not use")
        return tuple(ignored)

    def wanted(self, config: DecoderConfig, root: str | None = None) -> set[str]:
        """The tensors that a forward pass needs. `root`: None: the family's first."""
        root = self.roots[0] if root is None else root
        parts = [self.part(config, root, i, role) for i in range(config.layers) for role in self.roles(config, i)]
        parts += [
            Part((f"{root}{self.embed}", f"{root}{self.norm}", *([] if config.tied else [self.head_under(root)])))
        ]
        biases = [f"{stem}.bias" for part in parts if part.bias for stem in part.stems]
        return {*biases, *(name for part in parts for name in part.names)}


@dataclass(frozen=True)
class LayerParts:
    """See layers.Parts."""

    weights: Names
    config: DecoderConfig
    root: str
    layer: int

    def __call__(self, role: str) -> Part:
        return self.weights.part(self.config, self.root, self.layer, role)

    def has(self, role: str) -> bool:
        return role in self.weights.roles(self.config, self.layer)


class Block(Protocol):
    """One layer of a family."""

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        """x [T, hidden] → [T, hidden]; may reuse x's memory."""


class MakeConfig(Protocol):
    def from_hf(self, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> DecoderConfig: ...


class MakeBlock(Protocol):
    def __call__(self, build: Build, config: Any, part: Parts, layer: int) -> Block: ...


@dataclass(frozen=True)
class Family:
    """A model file's three answers: which numbers, which tensors, how the math goes."""

    config: MakeConfig
    weights: Names
    block: MakeBlock


class Decoder:
    """ids → embedding → blocks → norm → logits of the tokens that want them."""

    def __init__(self, build: Build, family: Family, config: DecoderConfig, names: Collection[str]) -> None:
        """Packs every weight. `names`: of all tensors in the checkpoint; raises BadModel where they don't fit."""
        weights = family.weights.fitting(config, names)
        family, root = replace(family, weights=weights), weights.root(names)
        if ignored := weights.check(config, names, build.adds_nothing):
            build.note(f"not loaded: {_some(list(ignored), 2)}")
        if any(re.search(KV_SCALES, name) for name in ignored):
            build.note(
                "keys and values are cached as --kv-cache-dtype says, without the scales that the files have for them"
            )
        self.ops, self.config = build.ops, config.settled(build.positions)
        table = _matrix(build, f"{root}{weights.embed}", config)
        self.embed = Embedding(build.ops, table, config.embed_scale)
        self.blocks = [self._block(build, family, root, layer) for layer in range(config.layers)]
        self.norm = norm(build, Part((f"{root}{weights.norm}",)), config)
        head = table if config.tied else _matrix(build, weights.head_under(root), config)
        self.head = Head(build.ops, head, config.logit_softcap, config.logit_scale)
        # Of packed weights that a step of one token reads: of an embedding that is not the head too, a row alone; of
        # experts, those that are chosen.
        self.bytes_per_token = build.nbytes - round(build.idle_bytes) - (0 if config.tied else table.nbytes)
        ends = (1 if config.tied else 2) * config.vocab * config.hidden
        self.products_per_token = build.values - round(build.idle_values) - ends  # of the blocks

    def _block(self, build: Build, family: Family, root: str, layer: int) -> Block:
        return family.block(build, self.config, LayerParts(family.weights, self.config, root, layer), layer)

    def forward(self, batch: ForwardBatch) -> Array:
        """Run the step's T tokens through all layers, storing their keys and values: [T, hidden]."""
        x = self.embed(batch.ids)
        for block in self.blocks:
            x = block.forward(x, batch)
        return x

    def logits(self, x: Array, batch: ForwardBatch) -> Array:
        """What `forward` gave → [S, vocab] for the S ≥ 1 wanted tokens."""
        return self.head(self.norm(self.ops.gather(x, batch.wanted)))


def norm(build: Build, part: Part, config: DecoderConfig) -> Norm | LayerNorm:
    """Of a token's whole row, as the configuration has it."""
    if config.layer_norms:
        return LayerNorm(build, part, config.hidden, config.eps)
    return Norm(build, part, config.hidden, config.eps, plus_one=config.norms_plus_one)


def _matrix(build: Build, stem: str, config: DecoderConfig) -> Weight:
    return build.weight(Part((stem,)), (config.vocab,), config.hidden, end=True)


def _spare(config: DecoderConfig) -> list[str]:
    return [rf"(^|\.)layers\.{config.layers + i}\." for i in range(config.spare_layers)]


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"tensor{'s' * (len(names) > 1)} {', '.join(names[:most])}{more}"
