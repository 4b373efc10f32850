"""Multi-head latent attention (DeepSeek-AI, 2024, arXiv:2405.04434), absorbed: what is cached of a token is one latent for all heads.

A head's key is a product of the latent, and so is its value. Instead of making either, the first product is taken of the
head's query, the second of what attention over latents gives. The form that expands the cache into keys and values rounds
otherwise, so this one serves prompts and single tokens alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from radixmill.device.kernels.contract import Array, AttentionParams, LatentHeads
from radixmill.device.layers.batch import ForwardBatch
from radixmill.device.layers.build import Build, Parts
from radixmill.device.layers.linear import Linear
from radixmill.device.layers.norm import Norm
from radixmill.device.layers.rope import Rope, RopeSpec, turned_rows


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
    apart: k_up ([rank, nope] of each head), v_up ([value, rank] of each head).
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
    rows = shape.nope + shape.value
    whole = build.matrix(part("kv_up"), (shape.heads * rows, shape.rank)).reshape(shape.heads, rows, shape.rank)
    keys = [build.pack(np.ascontiguousarray(head[: shape.nope].T)) for head in whole]
    values = [build.pack(np.ascontiguousarray(head[shape.nope :])) for head in whole]
    return build.ops.per_head(keys), build.ops.per_head(values)
