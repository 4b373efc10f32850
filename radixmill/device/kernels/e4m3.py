"""8-bit floats with scales. E4M3FN (OCP 8-bit Floating Point Specification, 2023): a sign, four bits of exponent (bias 7),
three of fraction; no infinities, NaN where all but the sign is set. F8B128: of each 128 values of a row a float32 scale,
then their codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F8_BLOCK = 128  # values
F8_BYTES = 4 + F8_BLOCK


def f8_floats(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The numbers that codes stand for, same shape."""
    return _TABLE[codes]


def f8_values(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of F8B128, [N, blocks · 132] → [N, blocks · 128]: each number times its scale, rounded once."""
    blocks = np.ascontiguousarray(data).reshape(len(data), -1, F8_BYTES)
    scales = blocks[..., :4].copy().view(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return (f8_floats(blocks[..., 4:]) * scales).reshape(len(data), -1)


def _table() -> NDArray[np.float32]:
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))
    size[codes & 127 == 127] = np.nan
    return np.where(codes < 128, size, -size).astype(np.float32)


_TABLE = _table()
