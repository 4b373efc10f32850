"""Codes and scales as files have them → blocks of 8-bit floats, see kernels/e4m3.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.e4m3 import F8_BLOCK, F8_BYTES


def as_f8_blocks(codes: NDArray[np.uint8], scales: NDArray[np.float32], width: int) -> NDArray[np.uint8]:
    """codes [N, K] and the scale of each `width` columns of a row, [N, K / width] → [N, K/128 · 132]."""
    rows, columns = codes.shape
    blocks = np.empty((rows, columns // F8_BLOCK, F8_BYTES), np.uint8)
    each = np.ascontiguousarray(np.repeat(scales, -(-width // F8_BLOCK), axis=1)[:, : blocks.shape[1]])
    blocks[..., :4] = each[..., None].view(np.uint8)
    blocks[..., 4:] = codes.reshape(rows, -1, F8_BLOCK)
    return blocks.reshape(rows, -1)
