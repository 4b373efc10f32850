"""8-bit floats: E4M3FN, a sign, four bits of exponent (bias 7), three of fraction; no infinities, NaN where all but the sign
is set. F8B128: of each 128 values of a row a float32 scale, then their codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F8_BLOCK = 128  # values
F8_BYTES = 4 + F8_BLOCK


def f8_floats(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The numbers that codes stand for, same shape."""
    return _TABLE[codes]


def as_f8_blocks(codes: NDArray[np.uint8], scales: NDArray[np.float32], width: int) -> NDArray[np.uint8]:
    """codes [N, K] and the scale of each `width` columns of a row, [N, K / width] → [N, K/128 · 132]."""
    rows, columns = codes.shape
    blocks = np.empty((rows, columns // F8_BLOCK, F8_BYTES), np.uint8)
    each = np.ascontiguousarray(np.repeat(scales, -(-width // F8_BLOCK), axis=1)[:, : blocks.shape[1]])
    blocks[..., :4] = each[..., None].view(np.uint8)
    blocks[..., 4:] = codes.reshape(rows, -1, F8_BLOCK)
    return blocks.reshape(rows, -1)


def f8_blocks(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """F8B128 [N, bytes] → [N, K]: each number times its scale, rounded once."""
    blocks = np.ascontiguousarray(data).reshape(len(data), -1, F8_BYTES)
    scales = blocks[..., :4].copy().view(np.float32)
    return (f8_floats(blocks[..., 4:]) * scales).reshape(len(data), -1)


def _table() -> NDArray[np.float32]:
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))
    size[codes & 127 == 127] = np.nan
    return np.where(codes < 128, size, -size).astype(np.float32)


_TABLE = _table()
