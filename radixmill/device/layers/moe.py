"""Sparse mixtures of experts (Shazeer et al., 2017, arXiv:1701.06538): each token goes through a few of many feed-forward blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radixmill.device.kernels.contract import Activation, Array, Experts, Routing
from radixmill.device.layers.build import Build, Part, Parts
from radixmill.device.layers.linear import Linear
from radixmill.device.layers.mlp import MLP


@dataclass(frozen=True)
class MoEShape:
    """One layer's experts, and what every token goes through beside them."""

    hidden: int
    inner: int  # of each expert
    routing: Routing
    activation: Activation
    biased_choice: bool = False  # the router has a correction that counts for the choice alone (role choice_bias)
    shared_inner: int = 0  # of the block that every token goes through; 0: there is none
    shared_gate: bool = False  # … times a sigmoid of its own (role shared_gate)


class SparseMoE:
    """x [T, hidden] → [T, hidden]. What chooses and weighs (a few rows) stays in the file's bits, whatever the rest is
    quantised to: an error there is another expert.

    Roles: router; experts_gate_up (of each expert in turn gate, up), experts_down (of each expert); where the shape has
    them choice_bias, shared_gate_up, shared_down, shared_gate.
    """

    def __init__(self, build: Build, part: Parts, shape: MoEShape) -> None:
        self.ops, self.shape = build.ops, shape
        experts = shape.routing.experts
        self.router = Linear(build, part("router"), shape.hidden, experts, kept=True)
        self.choice_bias = build.vector(part("choice_bias"), experts) if shape.biased_choice else None
        self.mixture = build.ops.mixture(_experts(build, part, shape))
        self.shared = self.shared_gate = None
        if shape.shared_inner:
            self.shared = MLP(build, part, shape.hidden, shape.shared_inner, shape.activation, prefix="shared_")
        if shape.shared_gate:
            self.shared_gate = Linear(build, part("shared_gate"), shape.hidden, 1, kept=True)

    def __call__(self, x: Array) -> Array:
        routes = self.ops.route(self.router(x), self.shape.routing, self.choice_bias)
        y = self.ops.experts(x, routes, self.mixture)
        if self.shared is None:
            return y
        common = self.shared(x)
        if self.shared_gate is not None:
            common = self.ops.dimmed(common, self.shared_gate(x))
        return self.ops.add(y, common)


def _experts(build: Build, part: Parts, shape: MoEShape) -> Experts:
    """One expert after another, so that no more than one is held unpacked."""
    count, sizes = shape.routing.experts, (shape.inner, shape.inner)
    gate_up, down = _split(part("experts_gate_up"), count), _split(part("experts_down"), count)
    with build.seldom(shape.routing.top / count):
        return Experts(
            tuple(build.weight(one, sizes, shape.hidden) for one in gate_up),
            tuple(build.weight(one, (shape.hidden,), shape.inner) for one in down),
            shape.activation,
            _biases(build, gate_up, sizes),
            _biases(build, down, (shape.hidden,)),
        )


def _split(part: Part, count: int) -> list[Part]:
    """A part of all experts → one of each."""
    each = len(part.stems) // count
    return [Part(part.stems[i * each : (i + 1) * each], part.bias) for i in range(count)]


def _biases(build: Build, parts: Sequence[Part], rows: Sequence[int]) -> Array | None:
    """[E, sum(rows)]"""
    if not parts[0].bias:
        return None
    values = [
        np.concatenate([build.tensors.vector(f"{stem}.bias", n) for stem, n in zip(one.stems, rows, strict=True)])
        for one in parts
    ]
    return build.ops.array(np.stack(values))
