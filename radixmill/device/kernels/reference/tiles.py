"""Matrix products whose rows do not depend on their neighbours.

A BLAS picks its algorithm by the shape of the product, so two batch sizes may round differently. Here every product has
one constant shape: rows are taken a tile at a time, the last tile padded with zeros. What remains to be known is whether
a row's bits depend on its place in the tile; that is measured once for each shape, and where they do, tiles are one row.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TILES = (16, 8)


def matmul_rows(x: Floats, weight: Floats) -> Floats:
    """x [T, K] · weightᵀ, weight [N, K] → [T, N]; a row's bits depend on that row alone."""
    (tokens, k), n = x.shape, weight.shape[0]
    tile = row_tile(k, n)
    out = np.empty((tokens, n), np.float32)
    padded, product = np.zeros((tile, k), np.float32), np.empty((tile, n), np.float32)
    for at in range(0, tokens, tile):
        rows = min(tile, tokens - at)
        padded[:rows] = x[at : at + rows]
        padded[rows:] = 0
        np.matmul(padded, weight.T, out=product)
        out[at : at + rows] = product[:rows]
    return out


@cache
def row_tile(k: int, n: int, sizes: tuple[int, ...] = TILES) -> int:
    """The first of `sizes` for which this machine's BLAS rounds a row of [size, K] · [K, N] alike at every place, or 1.

    Measured, with one row repeated: OpenBLAS on AVX2, for one, treats the rows of a tile of 16 differently.
    """
    row, weight = _probe(1, k), _probe(n, k)
    for size in sizes:
        product = np.matmul(np.repeat(row, size, axis=0), weight.T)
        if np.array_equal(product, np.repeat(product[:1], size, axis=0)):
            return size
    return 1


def tree_sum(x: Floats) -> Floats:
    """Sum over the last axis by halving, zero-padded to a power of two: additions alone fix the order."""
    width = 1 << max(x.shape[-1] - 1, 0).bit_length()
    work = np.zeros((*x.shape[:-1], width), np.float32)
    work[..., : x.shape[-1]] = x
    while width > 1:
        width //= 2
        work = work[..., :width] + work[..., width:]
    return work[..., 0]


def _probe(rows: int, columns: int) -> Floats:
    """Fixed values in (−1, 1) without structure: fractions of multiples of the golden ratio."""
    golden = np.arange(1, rows * columns + 1, dtype=np.float64) * 0.6180339887498949
    return (2 * (golden % 1) - 1).astype(np.float32).reshape(rows, columns)
