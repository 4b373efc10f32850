"""CpuRows: RowOps over the compiled module. Rows of one call are shared among the engine's threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Ranks, Shaping

if TYPE_CHECKING:
    from radixmill.device.kernels.cpu import _native


class CpuRows:
    """On the threads, and under the lock, of `engine`. All instruction sets give the same bits."""

    def __init__(self, engine: _native.Engine, rows: _native.Rows) -> None:
        self._engine, self._rows = engine, rows

    def draw(
        self,
        logits: NDArray[np.float32],
        rows: NDArray[np.int32],
        rules: NDArray[np.float64],
        shapings: Sequence[Shaping | None] | None = None,
    ) -> NDArray[np.int64]:
        tokens = np.empty(len(rows), np.int64)
        self._rows.draw(self._engine, logits, logits.shape[1], rows, rules, shapings or (), tokens)
        return tokens

    def rank(self, logits: NDArray[np.float32], rows: NDArray[np.int32], k: int) -> Ranks:
        n = len(rows)
        ranks = Ranks(
            np.empty(n, np.float32), np.empty(n, np.int64), np.empty((n, k), np.int64), np.empty((n, k), np.float32)
        )
        self._rows.rank(self._engine, logits, logits.shape[1], rows, k, *ranks)
        return ranks
