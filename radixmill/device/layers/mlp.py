"""The gated feed-forward block (Shazeer, 2020, arXiv:2002.05202): down(activation(gate(x)) · up(x))."""

from __future__ import annotations

from radixmill.device.kernels.contract import Activation, Array
from radixmill.device.layers.build import Build, Parts
from radixmill.device.layers.linear import Linear


class MLP:
    """x [T, hidden] → [T, hidden]. Roles: gate_up (two stems or one that holds both, one product), down.

    `prefix`: of the roles, where a block has several of these.
    """

    def __init__(
        self, build: Build, part: Parts, hidden: int, inner: int, activation: Activation, prefix: str = ""
    ) -> None:
        self.ops, self.activation = build.ops, activation
        gate_up = part(f"{prefix}gate_up")
        self.gate_up = Linear(build, gate_up, hidden, *((inner, inner) if len(gate_up.stems) == 2 else (2 * inner,)))
        self.down = Linear(build, part(f"{prefix}down"), inner, hidden)

    def __call__(self, x: Array) -> Array:
        return self.down(self.ops.gated(self.gate_up(x), self.activation))
