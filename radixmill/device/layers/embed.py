"""The two ends of a decoder: token ids → activations, activations → logits. They may share one packed matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Array, Ops, Weight


class Embedding:
    """ids [T] → [T, hidden]: rows of a packed [vocab, hidden] matrix, times `scale`."""

    def __init__(self, ops: Ops, weight: Weight, scale: float = 1.0) -> None:
        self.ops, self.weight, self.scale = ops, weight, scale

    def __call__(self, ids: NDArray[np.int64]) -> Array:
        return self.ops.embed(ids, self.weight, self.scale)


class Head:
    """x [S, hidden] → logits [S, vocab], times `scale`; with `softcap` c they become c · tanh(logit / c)."""

    def __init__(
        self, ops: Ops, weight: Weight, softcap: float | None = None, scale: float = 1.0, bias: Array | None = None
    ) -> None:
        self.ops, self.weight, self.softcap, self.scale, self.bias = ops, weight, softcap, scale, bias

    def __call__(self, x: Array) -> Array:
        logits = self.ops.linear(x, self.weight, self.bias)
        if self.scale != 1.0:
            logits = self.ops.scale(logits, self.scale)
        return logits if self.softcap is None else self.ops.softcap(logits, self.softcap)
