"""Floats → blocks of 32 values in fewer bits, when a model is loaded: the rule that every backend keeps bit by bit.

All is float32. Sums are taken by halving (`tree_sum`), halves round to even, scales and minima are float16 and codes are
chosen for what these have become.

Q8_0: scale = max|x| / 127; code = round(x / scale), within ±127.

Q4_1: value = scale · code + minimum, codes 0 to 15. Six times, codes are spread over the block as if it spanned 15 + s
steps, s = −½, 0, … 2, the middle of it in the middle; the least-squares line through them is a scale and a minimum; x
takes the codes nearest to that line. Of the six, the one with the smallest sum of squared errors stays, the first of
equals. Blocks of no more than 2⁻³⁰ from end to end have codes of 0: float16 begins at 2⁻²⁴.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.reference.tiles import Floats, tree_sum

BLOCK = 32
_SPANS = tuple(np.float32(s / 2) for s in range(-1, 5))
_FLAT = np.float32(2.0**-30)
_CHUNK = 1 << 20  # values at once
_ZERO, _ONE, _TOP, _COUNT = np.float32(0), np.float32(1), np.float32(15), np.float32(BLOCK)


def as_blocks(values: Floats, kind: Literal["Q8_0", "Q4_1"]) -> NDArray[np.uint8]:
    """values [N, K] → [N, bytes of a row]. Raises ValueError where K is no multiple of 32."""
    if values.shape[1] % BLOCK:
        raise ValueError(f"no way to {kind} with rows of {values.shape[1]}")
    make = _q8_0 if kind == "Q8_0" else _q4_1
    step = max(1, _CHUNK // values.shape[1])
    with np.errstate(all="ignore"):
        parts = [make(values[at : at + step].reshape(-1, BLOCK)) for at in range(0, len(values), step)]
    return np.concatenate(parts).reshape(len(values), -1)


def _q8_0(x: Floats) -> NDArray[np.uint8]:
    half = (np.abs(x).max(axis=1) / np.float32(127)).astype(np.float16)
    scale = half.astype(np.float32)[:, None]
    codes = np.where(scale == 0, _ZERO, np.clip(np.rint(x / scale), -127, 127)).astype(np.int8)
    return np.concatenate([_bytes(half), codes.view(np.uint8)], axis=1)


def _q4_1(x: Floats) -> NDArray[np.uint8]:
    low, high, total = x.min(axis=1), x.max(axis=1), tree_sum(x)
    best, least = _line(x, low, high, total, _SPANS[0])
    for more in _SPANS[1:]:
        line, error = _line(x, low, high, total, more)
        better = error < least
        best, least = np.where(better[:, None], line, best), np.where(better, error, least)
    codes = _nearest(x, best).astype(np.uint8)
    return np.concatenate([best.view(np.uint8), codes[:, :16] | codes[:, 16:] << 4], axis=1)


def _line(x: Floats, low: Floats, high: Floats, total: Floats, more: np.float32) -> tuple[NDArray[Any], Floats]:
    """(float16 scale and minimum [B, 2], squared error [B]) of codes over 15 + more steps."""
    inverse = np.where(high - low > _FLAT, (_TOP + more) / (high - low), _ZERO)
    codes = _codes((x - low[:, None]) * inverse[:, None] - np.float32(more / 2))
    q, qq, qx = tree_sum(codes), tree_sum(codes * codes), tree_sum(codes * x)
    det = _COUNT * qq - q * q
    slope = np.where(det > 0, (_COUNT * qx - q * total) / det, _ZERO)
    line = np.stack([slope, (total - slope * q) / _COUNT], axis=1).astype(np.float16)
    scale, minimum = (part[:, None] for part in line.astype(np.float32).T)
    rest = (x - minimum) - scale * _nearest(x, line)
    return line, tree_sum(rest * rest)


def _nearest(x: Floats, line: NDArray[Any]) -> Floats:
    """Codes for x [B, 32] under a scale and a minimum."""
    scale, minimum = (part[:, None] for part in line.astype(np.float32).T)
    return _codes((x - minimum) * np.where(scale > 0, _ONE / scale, _ZERO))


def _codes(turned: Floats) -> Floats:
    return np.clip(np.rint(turned), _ZERO, _TOP)


def _bytes(halves: NDArray[np.float16]) -> NDArray[np.uint8]:
    return halves[:, None].view(np.uint8)
