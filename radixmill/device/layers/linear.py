"""Matrix products."""

from __future__ import annotations

from radixmill.device.kernels.contract import Array
from radixmill.device.layers.build import Build, Part


class Linear:
    """x [T, inputs] → [T, sum(outputs)]. The part's stems, one size each, are stacked into one product."""

    def __init__(self, build: Build, part: Part, inputs: int, *outputs: int) -> None:
        self.ops = build.ops
        self.weight = build.weight(part, outputs, inputs)
        self.bias = build.bias(part, outputs)

    def __call__(self, x: Array) -> Array:
        return self.ops.linear(x, self.weight, self.bias)
