"""RowOps in NumPy: where a backend has none of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Ranks, Rule
from radixmill.device.sampling.choose import Row, clean, draw, massed, ranking, tempered, top_k_ids


class NumpyRows:
    """Row by row, as `choose` says it."""

    def draw(
        self, logits: NDArray[np.float32], rows: NDArray[np.int32], rules: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        pairs = zip(rows.tolist(), rules.tolist(), strict=True)
        return np.array([draw(clean(logits[row]), Rule(*rule)) for row, rule in pairs], np.int64)

    def rank(self, logits: NDArray[np.float32], rows: NDArray[np.int32], k: int) -> Ranks:
        values = [clean(logits[row]) for row in rows.tolist()]
        ids = np.array([_first(row, k) for row in values], np.int64).reshape(len(rows), k)
        return Ranks(
            np.array([row.max() for row in values], np.float32),
            np.array([_mass(row) for row in values], np.int64),
            ids,
            np.array([row[which] for row, which in zip(values, ids, strict=True)], np.float32).reshape(len(rows), k),
        )


def _first(row: Row, k: int) -> NDArray[np.int64]:
    """The k first by (−logit, id), in that order."""
    if k == 0:
        return np.empty(0, np.int64)
    ids = top_k_ids(row, k) if k < len(row) else np.arange(len(row))
    return ranking(row[ids], ids)


def _mass(row: Row) -> int:
    return 0 if row.max() == -np.inf else int(massed(tempered(row, 1.0)).sum())
