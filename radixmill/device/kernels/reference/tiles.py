"""Matrix products whose rows do not depend on their neighbours.

A BLAS picks its algorithm by the shape of the product, so two batch sizes may round differently. Here every product has
one constant shape: rows are taken a tile at a time, the last tile padded with zeros. What remains to be known is whether
a row's bits depend on its place in the tile; that is measured once for each shape, and where they do, tiles are one row.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Each = Callable[[Callable[[tuple[int, int]], None], list[tuple[int, int]]], Iterable[None]]
Beat = Callable[[], None]  # called now and then, so that others see that we get on

TILES = (16, 8)  # rows of a product, the best first
COLUMNS = 4096  # of a product; more outputs than that are several products


def matmul_rows(x: Floats, weight: Floats, each: Each = map, beat: Beat = lambda: None) -> Floats:
    """x [T, K] · weightᵀ, weight [N, K] → [T, N]; a row's bits depend on that row alone.

    `each` maps a function over the products, in any order or at once (an executor's map). `beat` is called after each.
    """
    (tokens, k), n = x.shape, weight.shape[0]
    blocks = [weight[at : at + COLUMNS].T for at in range(0, n, COLUMNS)]
    tile = min(row_tile(k, block.shape[1]) for block in blocks)
    padded = np.zeros((-(-tokens // tile) * tile, k), np.float32)
    padded[:tokens] = x
    out = np.empty((len(padded), n), np.float32)

    def product(job: tuple[int, int]) -> None:
        at, block = job
        columns = slice(block * COLUMNS, (block + 1) * COLUMNS)
        with np.errstate(all="ignore"):
            out[at : at + tile, columns] = np.matmul(padded[at : at + tile], blocks[block])
        beat()

    jobs = [(at, b) for b in range(len(blocks)) for at in range(0, tokens, tile)]
    deque((each if len(jobs) > 1 else map)(product, jobs), maxlen=0)
    return out[:tokens]


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


def one_blas_thread() -> None:
    """Tell this process's OpenBLAS to use one thread; nothing where NumPy has another BLAS.

    Its threads spin for one another: on cores that they must share, a product takes a hundred times as long.
    """
    core = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    library = ctypes.CDLL(core.__file__)  # symbols of what it links to are found through it
    for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
        setter: Any = getattr(library, name, None)
        if setter is not None:
            setter(ctypes.c_int(1))


def _probe(rows: int, columns: int) -> Floats:
    """Fixed values in (−1, 1) without structure: fractions of multiples of the golden ratio."""
    golden = np.arange(1, rows * columns + 1, dtype=np.float64) * 0.6180339887498949
    return (2 * (golden % 1) - 1).astype(np.float32).reshape(rows, columns)
