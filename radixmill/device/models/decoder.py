"""What the decoder families share: the numbers, the names of their tensors, and the walk from ids to logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Array, AttentionParams, Weight
from radixmill.device.layers import (
    Activation,
    AttentionShape,
    Build,
    Embedding,
    ForwardBatch,
    Head,
    Norm,
    Part,
    Parts,
    RopeSpec,
)


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
    windows: tuple[int | None, ...]  # per layer
    scale: float  # of attention scores
    softcap: float | None = None  # of attention scores
    logit_softcap: float | None = None
    embed_scale: float = 1.0
    norms_plus_one: bool = False  # norms multiply by 1 + w
    biased: frozenset[str] = frozenset()  # roles in a block whose products add a bias

    def attention(self, layer: int) -> AttentionShape:
        window = self.windows[layer]
        return AttentionShape(
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            dim=self.head_dim,
            rope=self.local_rope if self.local_rope and window is not None else self.rope,
            params=AttentionParams(self.scale, window, self.softcap),
            layer=layer,
        )


@dataclass(frozen=True)
class Names:
    """Which tensors a family has: stems, to which `.weight` and, for biased roles, `.bias` are added."""

    block: Mapping[str, tuple[str, ...]]  # role → stems within "layers.{i}."
    roots: tuple[str, ...] = ("model.",)  # what may stand before all but the head's name
    embed: str = "embed_tokens"
    norm: str = "norm"
    head: str = "lm_head"
    inert: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)  # patterns of tensors that a forward pass doesn't need

    def root(self, names: Collection[str]) -> str:
        """The root that this checkpoint uses."""
        return next((root for root in self.roots if f"{root}{self.embed}.weight" in names), self.roots[0])

    def part(self, config: DecoderConfig, root: str, layer: int, role: str) -> Part:
        stems = tuple(f"{root}layers.{layer}.{stem}" for stem in self.block[role])
        return Part(stems, role in config.biased)

    def check(
        self, config: DecoderConfig, names: Collection[str], inert: Callable[[str], bool] = lambda name: False
    ) -> tuple[str, ...]:
        """The tensors among `names` that a forward pass doesn't need: by their name, or `inert` says so of those that
        nothing would use. Raises BadModel that names the rest of these, or those missing."""
        wanted = set(self._wanted(config, self.root(names)))
        patterns = (*self.inert, rf"(^|\.){self.head}\.weight$") if config.tied else self.inert
        if missing := sorted(wanted - set(names)):
            raise BadModel(f"the model's files lack {_some(missing)}", "Fetch them again, or check config.json")
        ignored = sorted(n for n in set(names) - wanted if any(re.search(p, n) for p in patterns) or inert(n))
        if unused := sorted(set(names) - wanted - set(ignored)):
            raise BadModel(f"the model's files hold {_some(unused)} that its architecture does not use")
        return tuple(ignored)

    def _wanted(self, config: DecoderConfig, root: str) -> list[str]:
        parts = [self.part(config, root, i, role) for i in range(config.layers) for role in self.block]
        stems = [f"{root}{self.embed}", f"{root}{self.norm}", *([] if config.tied else [self.head])]
        stems += [stem for part in parts for stem in part.stems]
        biases = [f"{stem}.bias" for part in parts if part.bias for stem in part.stems]
        return [f"{stem}.weight" for stem in stems] + biases


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
        ignored = family.weights.check(config, names, build.adds_nothing)
        if ignored:
            build.note(f"not loaded: {_some(list(ignored), 2)}")
        weights, root = family.weights, family.weights.root(names)
        self.ops, self.config = build.ops, config
        table = _matrix(build, f"{root}{weights.embed}", config)
        self.embed = Embedding(build.ops, table, config.embed_scale)
        self.blocks = [self._block(build, family, root, layer) for layer in range(config.layers)]
        norm = Part((f"{root}{weights.norm}",))
        self.norm = Norm(build, norm, config.hidden, config.eps, plus_one=config.norms_plus_one)
        head = table if config.tied else _matrix(build, weights.head, config)
        self.head = Head(build.ops, head, config.logit_softcap)
        # Of packed weights that a step of one token reads: of an embedding that is not the head too, a row alone.
        self.bytes_per_token = build.nbytes - (0 if config.tied else table.nbytes)
        self.products_per_token = (
            build.values - (1 if config.tied else 2) * config.vocab * config.hidden
        )  # of the blocks

    def _block(self, build: Build, family: Family, root: str, layer: int) -> Block:
        def part(role: str) -> Part:
            return family.weights.part(self.config, root, layer, role)

        return family.block(build, self.config, part, layer)

    def forward(self, batch: ForwardBatch) -> Array:
        """Run the step's T tokens through all layers, storing their keys and values: [T, hidden]."""
        x = self.embed(batch.ids)
        for block in self.blocks:
            x = block.forward(x, batch)
        return x

    def logits(self, x: Array, batch: ForwardBatch) -> Array:
        """What `forward` gave → [S, vocab] for the S ≥ 1 wanted tokens."""
        return self.head(self.norm(self.ops.gather(x, batch.wanted)))


def _matrix(build: Build, stem: str, config: DecoderConfig) -> Weight:
    return build.weight(Part((stem,)), (config.vocab,), config.hidden, end=True)


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"tensor{'s' * (len(names) > 1)} {', '.join(names[:most])}{more}"
