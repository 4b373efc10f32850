"""Multi-head latent attention (DeepSeek-AI, 2024, arXiv:2405.04434), absorbed: what is cached of a token is one latent for all heads.

A head's key is a product of the latent, and so is its value. Instead of making either, the first product is taken of the
head's query, the second of what attention over latents gives. The form that expands the cache into keys and values rounds
otherwise, so this one serves prompts and single tokens alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from radixmill.device.kernels.contract import Array, AttentionParams, LatentHeads, Stored, in_place
from radixmill.device.layers.batch import ForwardBatch
from radixmill.device.layers.build import FLOATS, Build, Part, Parts
from radixmill.device.layers.linear import Linear
from radixmill.device.layers.norm import Norm
from radixmill.device.layers.rope import Rope, RopeSpec, turned_rows
from radixmill.device.quant import widen


@dataclass(frozen=True)
class LatentShape:
    """`heads` query heads of nope + rope numbers, values of `value`, a latent of `rank` (queries: of `q_rank`; 0: direct)."""

    hidden: int
    heads: int
    nope: int
    rope: int
    value: int
    rank: int
    q_rank: int
    eps: float
    turn: RopeSpec
    interleaved: bool  # neighbours turn together, in the order of the checkpoint's rows
    params: AttentionParams
    layer: int
    group: int = 0


class MLA:
    """x [T, hidden] → [T, hidden]. Stores the step's latents, then attends to all up to each token.

    Roles: q, or q_down, q_norm and q_up; kv_down, kv_norm, kv_up, out. Where the checkpoint holds the halves of kv_up
    apart, in its place k_up (of each head a stem, [rank, nope]) and v_up (of each head a stem, [value, rank]).
    """

    def __init__(self, build: Build, part: Parts, shape: LatentShape) -> None:
        self.ops, self.shape = build.ops, shape
        dim = shape.nope + shape.rope
        q_order = turned_rows(shape.heads, dim, shape.nope, shape.rope) if shape.interleaved else None
        kv_order = turned_rows(1, shape.rank + shape.rope, shape.rank, shape.rope) if shape.interleaved else None
        self.q_down = self.q_norm = None
        if shape.q_rank:
            self.q_down = Linear(build, part("q_down"), shape.hidden, shape.q_rank)
            self.q_norm = Norm(build, part("q_norm"), shape.q_rank, shape.eps)
        inputs = shape.q_rank or shape.hidden
        self.q = Linear(build, part("q_up" if shape.q_rank else "q"), inputs, shape.heads * dim, order=q_order)
        self.kv_down = Linear(build, part("kv_down"), shape.hidden, shape.rank + shape.rope, order=kv_order)
        up, self.values = _halves(build, part, shape)
        turn, norm = Rope(build, shape.turn, shape.rope), Norm(build, part("kv_norm"), shape.rank, shape.eps)
        self.heads = LatentHeads(
            shape.heads, shape.nope, shape.rope, shape.rank, up, turn.cos, turn.sin, (norm.weight, norm.eps)
        )
        self.out = Linear(build, part("out"), shape.heads * shape.value, shape.hidden)

    def __call__(self, x: Array, batch: ForwardBatch) -> Array:
        shape, ops = self.shape, self.ops
        kv, ragged = batch.kv[shape.layer], batch.ragged[shape.group]
        wanted = x if self.q_down is None or self.q_norm is None else self.q_norm(self.q_down(x))
        q = ops.latents(self.q(wanted), self.kv_down(x), self.heads, batch.positions, kv, ragged)
        y = ops.linear_heads(ops.attention(q, kv, ragged, shape.params), self.values)
        return self.out(y.reshape(-1, shape.heads * shape.value))


def _halves(build: Build, part: Parts, shape: LatentShape) -> tuple[Array, Array]:
    """What is multiplied into queries, [rank, nope] of each head, and what makes values of latents, [value, rank]."""
    if part.has("k_up"):
        keys = [build.weight(Part((stem,)), (shape.rank,), shape.nope) for stem in part("k_up").stems]
        values = [build.weight(Part((stem,)), (shape.value,), shape.rank) for stem in part("v_up").stems]
        return build.ops.per_head(keys), build.ops.per_head(values)
    rows = shape.nope + shape.value
    whole = build.stored(part("kv_up"), (shape.heads * rows, shape.rank))
    if whole.order is not None:
        whole = _floats(whole)
    starts = range(0, shape.heads * rows, rows)
    keys = [build.pack(_turned(_rows(whole, at, shape.nope))) for at in starts]
    values = [build.pack(_rows(whole, at + shape.nope, shape.value)) for at in starts]
    return build.ops.per_head(keys), build.ops.per_head(values)


def _rows(tensor: Stored, at: int, count: int) -> Stored:
    """So many rows; packed ones stay packed."""
    return replace(tensor, shape=(count, tensor.shape[1]), data=tensor.data[at : at + count])


def _turned(tensor: Stored) -> Stored:
    """Its transpose; what is packed along its rows can only turn as float32."""
    plain = tensor if tensor.kind in FLOATS else _floats(tensor)
    return Stored(plain.kind, (tensor.shape[1], tensor.shape[0]), np.ascontiguousarray(plain.data.T))


def _floats(tensor: Stored) -> Stored:
    """As float32, columns in the matrix's own order."""
    data = widen(tensor).data
    return Stored("F32", tensor.shape, data if tensor.order is None else in_place(data, tensor.order))
