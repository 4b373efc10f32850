"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

from radixmill.device.kernels.contract import Array
from radixmill.device.layers.build import Build, Order, Part


class Linear:
    """x [T, inputs] → [T, sum(outputs)]. The part's stems, one size each, are stacked into one product."""

    def __init__(
        self, build: Build, part: Part, inputs: int, *outputs: int, order: Order | None = None, kept: bool = False
    ) -> None:
        """`order`: output i is row order[i] of the (only) tensor. `kept`: weights stay in the file's bits."""
        self.ops = build.ops
        self.weight = build.weight(part, outputs, inputs, order=order, kept=kept)
        self.bias = build.bias(part, outputs, order)

    def __call__(self, x: Array) -> Array:
        return self.ops.linear(x, self.weight, self.bias)


def projections(build: Build, parts: Sequence[tuple[Part, int]], inputs: int) -> tuple[Linear, ...]:
    """Products of the same x with several parts of so many rows each: one stacked product where all have a bias or none
    has, else one each. A stacked product of one format reads x once and wakes the threads once."""
    stems = [stem for part, _ in parts for stem in part.stems]
    biases = {part.bias for part, _ in parts}
    if len(biases) == 1 and len(stems) == len(parts):
        return (Linear(build, Part(tuple(stems), biases.pop()), inputs, *(count for _, count in parts)),)
    return tuple(Linear(build, part, inputs, count) for part, count in parts)
