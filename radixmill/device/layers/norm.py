"""Root mean square normalisation (Zhang and Sennrich, 2019, arXiv:1910.07467), and its elder (Ba et al., 2016, arXiv:1607.06450)."""

from __future__ import annotations

import numpy as np

from radixmill.device.kernels.contract import Array
from radixmill.device.layers.build import Build, Order, Part


class Norm:
    """x [..., size] → x / sqrt(mean(x²) + eps) · w, or · (1 + w) where `plus_one` (the Gemma families)."""

    def __init__(self, build: Build, part: Part, size: int, eps: float, *, plus_one: bool = False) -> None:
        self.ops, self.eps = build.ops, eps
        values = build.tensors.vector(f"{part.stems[0]}.weight", size)
        if plus_one and not build.tensors.norms_include_one:
            values = np.float32(1) + values
        self.weight = build.ops.array(values)

    def __call__(self, x: Array) -> Array:
        return self.ops.rms_norm(x, self.weight, self.eps)


class LayerNorm:
    """x [T, groups · size] → (x − mean) / sqrt(variance + eps) · w, each group of a row for itself, without a bias."""

    def __init__(
        self, build: Build, part: Part, size: int, eps: float, groups: int | None = None, order: Order | None = None
    ) -> None:
        """`groups`: the tensor is [groups, size]; None: it is [size]. `order`: number i of a row is number order[i] of the
        tensor's, from its own group."""
        self.ops, self.eps = build.ops, eps
        if groups is None:
            values = build.tensors.vector(part.names[0], size)
        else:
            values = build.matrix(part, (groups, size)).reshape(-1)
        self.weight = build.ops.array((values if order is None else values[order]).reshape(-1, size))

    def __call__(self, x: Array) -> Array:
        return self.ops.layer_norm(x, self.weight, self.eps)
