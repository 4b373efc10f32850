"""The gated feed-forward block (Shazeer, 2020, arXiv:2002.05202): down(activation(gate(x)) · up(x))."""

from __future__ import annotations

from typing import Literal

from radixmill.device.kernels.contract import Array
from radixmill.device.layers.build import Build, Parts
from radixmill.device.layers.linear import Linear

Activation = Literal["silu", "gelu_tanh", "gelu"]


class MLP:
    """x [T, hidden] → [T, hidden]. Roles: gate_up (two stems, one product), down."""

    def __init__(self, build: Build, part: Parts, hidden: int, inner: int, activation: Activation) -> None:
        self.ops, self.activation = build.ops, activation
        self.gate_up = Linear(build, part("gate_up"), hidden, inner, inner)
        self.down = Linear(build, part("down"), inner, hidden)

    def __call__(self, x: Array) -> Array:
        return self.down(self.ops.gated(self.gate_up(x), self.activation))
