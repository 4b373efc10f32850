"""Logits of one row → logits to draw from: penalties, then bias, then mask and bans. Pure functions on copies.

The half of the specification of `RowOps` that comes before `choose.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Bits, Penalties, Shaping
from radixmill.device.sampling.choose import HIGHEST, Row


def shaped(row: Row, shaping: Shaping) -> Row:
    """A copy after all that `shaping` does. `row` has passed `choose.clean`; what comes back may need to again."""
    out = row.copy()
    if shaping.penalties is not None:
        _put(out, shaping.penalties.ids, penalised(out[shaping.penalties.ids], shaping.penalties))
    if shaping.bias is not None:
        ids, by = shaping.bias
        _put(out, ids, out[ids] + by)
    if shaping.mask is not None:
        out[~unpacked(shaping.mask, len(out))] = -np.inf
    if shaping.banned is not None:
        out[shaping.banned] = -np.inf
    return out


def penalised(logits: Row, by: Penalties) -> NDArray[np.float64]:
    """Logits of the penalties' ids, [n], after them.

    Repetition divides positive logits and multiplies negative ones (Keskar et al. 2019, as Hugging Face does it).
    """
    x = logits.astype(np.float64)
    x = np.where(x > 0, x / by.repetition, x * by.repetition)
    x -= by.frequency * by.counts
    x -= by.presence * (by.counts > 0)
    return x


def lowest_allowed(size: int, shaping: Shaping) -> int:
    """The token of a row of `size` that has nothing above −∞ left, see RowOps.draw."""
    grammar = np.ones(size, np.bool_) if shaping.mask is None else unpacked(shaping.mask, size)
    allowed = grammar.copy()
    if shaping.banned is not None:
        allowed[shaping.banned] = False
    return int((allowed if allowed.any() else grammar).argmax())


def unpacked(bits: Bits, size: int) -> NDArray[np.bool_]:
    """One bool for each of `size` tokens."""
    little = bits.astype("<u4", copy=False)
    return np.unpackbits(little.view(np.uint8), count=size, bitorder="little").view(np.bool_)


def _put(row: Row, ids: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """row[ids] = values rounded to float32, those beyond its range as its largest and −∞."""
    with np.errstate(over="ignore"):
        row[ids] = np.minimum(values, HIGHEST)
