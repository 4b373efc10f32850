"""Grouped-query attention over paged keys and values (Ainslie et al., 2023, arXiv:2305.13245)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from radixmill.device.kernels.contract import Array, AttentionParams, Heads
from radixmill.device.layers.batch import ForwardBatch
from radixmill.device.layers.build import Build, Order, Parts
from radixmill.device.layers.linear import Linear, projections
from radixmill.device.layers.norm import Norm
from radixmill.device.layers.rope import Grown, Growth, Rope, RopeSpec, turned_rows


@dataclass(frozen=True)
class AttentionShape:
    """`heads` query heads read `kv_heads` key and value heads, each of `dim` values."""

    hidden: int
    heads: int
    kv_heads: int
    dim: int
    rope: RopeSpec | None  # None: heads are not turned
    params: AttentionParams
    layer: int  # whose KV pages these are
    group: int = 0  # the KV group of that layer
    turned: int | None = None  # of a head's numbers the first so many turn; None: all
    interleaved: bool = False  # neighbours turn together, in the order of the checkpoint's rows
    sinks: bool = False  # each query head has one (role sinks)
    growth: Growth | None = None  # of queries

    def order(self, heads: int) -> Order | None:
        """The rows of so many heads, with those that turn together brought to the halves of what turns. None: as they are."""
        if not self.interleaved or self.rope is None:
            return None
        return turned_rows(heads, self.dim, 0, self.turned or self.dim)


class Attention:
    """x [T, hidden] → [T, hidden]. Stores the step's keys and values, then attends to all up to each token.

    Roles: q, k, v, or qkv that holds all three; out; where the shape has them, sinks. `norms`: of each query head and of
    each key head, in the families that have them. `wide_norms`: of a whole row of
    queries and of keys, with heads' numbers in the shape's order.
    """

    def __init__(
        self,
        build: Build,
        part: Parts,
        shape: AttentionShape,
        norms: tuple[Norm, Norm] | None = None,
        wide_norms: tuple[RowNorm, RowNorm] | None = None,
    ) -> None:
        self.ops, self.shape, self.wide_norms = build.ops, shape, wide_norms
        self.projections = _projections(build, part, shape, apart=wide_norms is not None)
        self.out = Linear(build, part("out"), shape.heads * shape.dim, shape.hidden)
        turned = shape.dim if shape.turned is None else shape.turned
        turn = Rope(build, shape.rope, turned if shape.rope else 0)
        weights = (norms[0].weight, norms[1].weight, norms[0].eps) if norms else None
        self.heads = Heads(shape.heads, shape.kv_heads, shape.dim, turn.cos, turn.sin, weights)
        self.grown = None
        if shape.growth is not None and build.positions > shape.growth.original:
            self.grown = Grown(build, shape.growth, shape.dim)
        self.params = shape.params
        if shape.sinks:
            self.params = replace(shape.params, sinks=build.vector(part("sinks"), shape.heads))

    def __call__(self, x: Array, batch: ForwardBatch) -> Array:
        shape, ragged = self.shape, batch.ragged[self.shape.group]
        parts = tuple(project(x) for project in self.projections)
        if self.wide_norms is not None:
            parts = (self.wide_norms[0](parts[0]), self.wide_norms[1](parts[1]), parts[2])
        kv = batch.kv[shape.layer]
        q = self.ops.qkv(parts, self.heads, batch.positions, kv, ragged)  # [T, H, D]
        if self.grown is not None:
            q = self.grown(q, batch.positions)
        y = self.ops.attention(q, kv, ragged, self.params)
        return self.out(y.reshape(-1, shape.heads * shape.dim))


RowNorm = Callable[[Array], Array]


def _projections(build: Build, part: Parts, shape: AttentionShape, *, apart: bool) -> tuple[Linear, ...]:
    """Of queries, keys and values: one product, or one each where they are wanted `apart` or can't be stacked."""
    counts = tuple(heads * shape.dim for heads in (shape.heads, shape.kv_heads, shape.kv_heads))
    orders = (shape.order(shape.heads), shape.order(shape.kv_heads), None)
    if part.has("qkv"):
        assert not apart and orders[0] is None
        return (Linear(build, part("qkv"), shape.hidden, sum(counts)),)
    names = [part(role) for role in "qkv"]
    if apart or orders[0] is not None:
        return tuple(
            Linear(build, name, shape.hidden, count, order=order)
            for name, count, order in zip(names, counts, orders, strict=True)
        )
    return projections(build, list(zip(names, counts, strict=True)), shape.hidden)
