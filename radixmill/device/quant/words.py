"""Small integers packed into 32-bit words, as AWQ and GPTQ checkpoints have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Which of a word's eight columns its nibbles are, lowest first.
_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


def fields(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Rows of int32 [R, W] → rows of integers of `bits` bits, uint8 [R, W · 32 / bits].

    A row is a stream of bits, lowest first; integers of 3 bits may lie in two words. `bits` divides 8 or is 3.
    """
    stream = np.ascontiguousarray(words, "<i4").view(np.uint8)
    if bits == 8:
        return stream
    units: NDArray[Any] = stream  # each holds whole integers
    if bits == 3:
        three = stream.reshape(len(words), -1, 3).astype(np.uint32)
        units = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
    per = 8 if bits == 3 else 8 // bits
    out = np.empty((len(words), units.shape[1] * per), np.uint8)
    for i in range(per):
        out[:, i::per] = units >> (bits * i) & ((1 << bits) - 1)
    return out


def awq_fields(words: NDArray[Any]) -> NDArray[np.uint8]:
    """AWQ's matrices of 4 bits, int32 [K, N / 8] with eight columns interleaved in a word → uint8 [N, K]."""
    stream = np.ascontiguousarray(words.T, "<i4").view(np.uint8).reshape(words.shape[1], words.shape[0], 4)
    out = np.empty((words.shape[1], 8, words.shape[0]), np.uint8)
    for i, column in enumerate(_AWQ_COLUMNS):
        out[:, column] = stream[..., i // 2] >> (4 * (i % 2)) & 15
    return out.reshape(-1, words.shape[0])
