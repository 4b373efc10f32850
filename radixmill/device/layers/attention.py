"""Grouped-query attention over paged keys and values (Ainslie et al., 2023, arXiv:2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass

from radixmill.device.kernels.contract import Array, AttentionParams
from radixmill.device.layers.batch import ForwardBatch
from radixmill.device.layers.build import Build, Parts
from radixmill.device.layers.linear import Linear
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
        self.ops, self.shape, self.norms = build.ops, shape, norms
        queries, keys = shape.heads * shape.dim, shape.kv_heads * shape.dim
        # Three products, not one: the contract slices along the first axis only, and copying q, k and v out of a
        # stacked result costs what the two calls do.
        self.q = Linear(build, part("q"), shape.hidden, queries)
        self.k = Linear(build, part("k"), shape.hidden, keys)
        self.v = Linear(build, part("v"), shape.hidden, keys)
        self.out = Linear(build, part("out"), queries, shape.hidden)
        self.rope = Rope(build, shape.rope, shape.dim)

    def __call__(self, x: Array, batch: ForwardBatch) -> Array:
        shape, ragged = self.shape, batch.ragged[self.shape.group]
        q = self.q(x).reshape(-1, shape.heads, shape.dim)  # [T, H, D]
        k = self.k(x).reshape(-1, shape.kv_heads, shape.dim)  # [T, G, D]
        v = self.v(x).reshape(-1, shape.kv_heads, shape.dim)
        if self.norms:
            q, k = self.norms[0](q), self.norms[1](k)
        q, k = self.rope(q, batch.positions), self.rope(k, batch.positions)
        kv = batch.kv[shape.layer]
        self.ops.kv_store(kv, k, v, ragged)
        y = self.ops.attention(q, kv, ragged, shape.params)
        return self.out(y.reshape(-1, shape.heads * shape.dim))
