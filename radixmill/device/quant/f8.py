"""8-bit floats: what codes stand for, and rows of them with their scales as kernels take them (F8B128: of each 128 values of a
row a float32 scale, then their codes)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.reference.weights import E4M3, F8_BLOCK

__all__ = ["F8_BLOCK", "as_f8_blocks", "f8_floats"]


def f8_floats(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The numbers that codes stand for, same shape."""
    return E4M3[codes]


def as_f8_blocks(codes: NDArray[np.uint8], scales: NDArray[np.float32], width: int) -> NDArray[np.uint8]:
    """codes [N, K] and the scale of each `width` columns of a row, [N, K / width] → [N, K/128 · 132]."""
    rows, columns = codes.shape
    blocks = np.empty((rows, columns // F8_BLOCK, 4 + F8_BLOCK), np.uint8)
    each = np.ascontiguousarray(np.repeat(scales, -(-width // F8_BLOCK), axis=1)[:, : blocks.shape[1]])
    blocks[..., :4] = each[..., None].view(np.uint8)
    blocks[..., 4:] = codes.reshape(rows, -1, F8_BLOCK)
    return blocks.reshape(rows, -1)
