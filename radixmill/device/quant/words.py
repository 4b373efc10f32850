"""Small integers packed into 32-bit words, as AWQ and GPTQ checkpoints have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Which of a word's eight columns its nibbles are, lowest first.
_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
_CHUNK = 1 << 18  # values at once: what is between fits into a cache


def fields(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Rows of int32 [R, W] → rows of integers of `bits` bits, uint8 [R, W · 32 / bits].

    A row is a stream of bits, lowest first; integers of 3 bits may lie in two words. `bits` divides 8 or is 3.
    """
    columns = words.shape[1] * 32 // bits
    out = np.empty((words.shape[0], columns), np.uint8)
    step = max(1, _CHUNK // columns)
    for at in range(0, len(out), step):
        stream = np.ascontiguousarray(words[at : at + step], "<i4").view(np.uint8)
        out[at : at + step] = _spread(stream, bits)
    return out


def awq_fields(words: NDArray[Any]) -> NDArray[np.uint8]:
    """AWQ's matrices of 4 bits, int32 [K, N / 8] with eight columns interleaved in a word → uint8 [N, K]."""
    columns = words.shape[0]
    out = np.empty((words.shape[1], 8, columns), np.uint8)
    step = max(1, _CHUNK // (8 * columns))
    for at in range(0, len(out), step):
        part = np.ascontiguousarray(words[:, at : at + step].T, "<i4").view(np.uint32)
        for i, column in enumerate(_AWQ_COLUMNS):
            out[at : at + step, column] = part >> np.uint32(4 * i) & np.uint32(15)
    return out.reshape(-1, columns)


def _spread(stream: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    """Bytes [R, B] → a byte for every `bits` bits of them: several at once, in a number of as many bytes."""
    if bits == 8:
        return stream
    if bits == 3:
        three = stream.reshape(len(stream), -1, 3).astype("<u8")
        units, per = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16, 8
    else:
        per = 8 // bits
        units = stream.astype(f"<u{per}")
    mask, spread = (1 << bits) - 1, np.zeros_like(units)
    for i in range(per):
        spread |= (units & (mask << bits * i)) << ((8 - bits) * i)
    return spread.view(np.uint8)
