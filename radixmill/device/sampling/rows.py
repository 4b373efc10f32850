"""RowOps in NumPy: the specification, and what serves where a backend has none of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Ranks, Rule, Shaping
from radixmill.device.sampling.choose import Row, clean, draw, massed, ranking, tempered, top_k_ids
from radixmill.device.sampling.shape import lowest_allowed, shaped


class NumpyRows:
    """Row by row, as `shape` and then `choose` say it."""

    def draw(
        self,
        logits: NDArray[np.float32],
        rows: NDArray[np.int32],
        rules: NDArray[np.float64],
        shapings: Sequence[Shaping | None] | None = None,
    ) -> NDArray[np.int64]:
        ways = zip(rows.tolist(), rules.tolist(), shapings or [None] * len(rows), strict=True)
        return np.array([_draw(clean(logits[row]), Rule(*rule), shaping) for row, rule, shaping in ways], np.int64)

    def rank(self, logits: NDArray[np.float32], rows: NDArray[np.int32], k: int) -> Ranks:
        values = [clean(logits[row]) for row in rows.tolist()]
        ids = np.array([_first(row, k) for row in values], np.int64).reshape(len(rows), k)
        return Ranks(
            np.array([row.max() for row in values], np.float32),
            np.array([_mass(row) for row in values], np.int64),
            ids,
            np.array([row[which] for row, which in zip(values, ids, strict=True)], np.float32).reshape(len(rows), k),
        )


def _draw(row: Row, rule: Rule, shaping: Shaping | None) -> int:
    if shaping is None:
        return draw(row, rule)
    row = clean(shaped(row, shaping))
    token = draw(row, rule)
    return lowest_allowed(len(row), shaping) if row[token] == -np.inf else token


def _first(row: Row, k: int) -> NDArray[np.int64]:
    """The k first by (−logit, id), in that order."""
    if k == 0:
        return np.empty(0, np.int64)
    ids = top_k_ids(row, k) if k < len(row) else np.arange(len(row))
    return ranking(row[ids], ids)


def _mass(row: Row) -> int:
    return 0 if row.max() == -np.inf else int(massed(tempered(row, 1.0)).sum())
