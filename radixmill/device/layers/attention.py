"""Grouped-query attention over paged keys and values (Ainslie et al., 2023, arXiv:2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass

from radixmill.device.kernels.contract import Array, AttentionParams, Heads
from radixmill.device.layers.batch import ForwardBatch
from radixmill.device.layers.build import Build, Parts
from radixmill.device.layers.linear import Linear, projections
from radixmill.device.layers.norm import Norm
from radixmill.device.layers.rope import Rope, RopeSpec


@dataclass(frozen=True)
class AttentionShape:
    """`heads` query heads read `kv_heads` key and value heads, each of `dim` values."""

    hidden: int
    heads: int
    kv_heads: int
    dim: int
    rope: RopeSpec
    params: AttentionParams
    layer: int  # whose KV pages these are
    group: int = 0  # the KV group of that layer


class Attention:
    """x [T, hidden] → [T, hidden]. Stores the step's keys and values, then attends to all up to each token.

    Roles: q, k, v, out. `norms`: of each query head and of each key head, in the families that have them.
    """

    def __init__(
        self, build: Build, part: Parts, shape: AttentionShape, norms: tuple[Norm, Norm] | None = None
    ) -> None:
        self.ops, self.shape = build.ops, shape
        queries, keys = shape.heads * shape.dim, shape.kv_heads * shape.dim
        names = [(part("q"), queries), (part("k"), keys), (part("v"), keys)]
        self.projections = projections(build, names, shape.hidden)
        self.out = Linear(build, part("out"), queries, shape.hidden)
        turn = Rope(build, shape.rope, shape.dim)
        weights = (norms[0].weight, norms[1].weight, norms[0].eps) if norms else None
        self.heads = Heads(shape.heads, shape.kv_heads, shape.dim, turn.cos, turn.sin, weights)

    def __call__(self, x: Array, batch: ForwardBatch) -> Array:
        shape, ragged = self.shape, batch.ragged[self.shape.group]
        parts = tuple(project(x) for project in self.projections)
        kv = batch.kv[shape.layer]
        q = self.ops.qkv(parts, self.heads, batch.positions, kv, ragged)  # [T, H, D]
        y = self.ops.attention(q, kv, ragged, shape.params)
        return self.out(y.reshape(-1, shape.heads * shape.dim))
