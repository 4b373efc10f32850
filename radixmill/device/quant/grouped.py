"""Matrices of small integers, a scale and a zero point for each group of a row's columns → blocks that kernels take.

Blocks of 32 values have one scale, and zero points in the middle of their codes. A code less its zero point has one bit
more than the code, unless that point is in the middle already; so the blocks are of the next kind that holds it, and no
value changes: 4 bits become Q4_0 or Q5_0, fewer Q4_0, and 8 bits Q8_0. What no block can say becomes F16 or F32.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Stored

_BLOCK = 32
_CHUNK = 1 << 20  # values laid at once
_CLOSE = 5e-4  # ‖W − W'‖ / ‖W‖ of a row: half of what may be lost
_KINDS = (("Q4_0", 8), ("Q5_0", 16), ("Q8_0", 128))  # a block's kind, and what its codes are less by


@dataclass(frozen=True)
class Grouped:
    """N rows of K columns: value[n, k] = scales[n, g] · (codes[n, k] − zeros[n, g]), g = groups[k] of G."""

    codes: NDArray[np.uint8]  # [N, K]
    zeros: NDArray[np.uint8]  # [N, G]
    scales: NDArray[Any]  # [N, G], float16 or float32
    groups: NDArray[np.intp]  # [K]

    def values(self) -> NDArray[np.float32]:
        """[N, K], rounded once."""
        zeros, scales = (a[:, self.groups] for a in (self.zeros, self.scales.astype(np.float32)))
        return scales * (self.codes.astype(np.float32) - zeros)


def as_blocks(matrix: Grouped) -> Stored:
    """The same matrix, stored: columns of a group are brought together where they are not, in `Stored.order`."""
    order = None if (np.diff(matrix.groups) >= 0).all() else np.argsort(matrix.groups, kind="stable")
    group = _group_of_blocks(matrix.groups if order is None else matrix.groups[order])
    scales = _halves(matrix.scales)
    kind, offset = _kind(matrix)
    if group is None:
        return _floats(matrix, "groups are no multiple of 32 columns")
    if not kind:
        return _floats(matrix, "zero points of 8 bits are not in the middle")
    if not _same(scales, matrix.scales):
        return _floats(matrix, "scales are out of float16's range")
    step = max(1, _CHUNK // matrix.codes.shape[1])
    rows = [slice(at, at + step) for at in range(0, len(scales), step)]

    def laid(part: slice) -> NDArray[np.uint8]:
        return _blocks(kind, offset, _cut(matrix, part, order), scales[part], group)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # NumPy lets go of the interpreter
        data = list(threads.map(laid, rows))
    return Stored(kind, matrix.codes.shape, np.concatenate(data), order)


def _cut(matrix: Grouped, rows: slice, order: NDArray[np.intp] | None) -> Grouped:
    codes = matrix.codes[rows] if order is None else np.take(matrix.codes[rows], order, axis=1)
    return Grouped(codes, matrix.zeros[rows], matrix.scales[rows], matrix.groups)


def _group_of_blocks(groups: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """The group of each 32 columns [K / 32], or None where some have several."""
    if len(groups) % _BLOCK:
        return None
    blocks = groups.reshape(-1, _BLOCK)
    return blocks[:, 0] if (blocks == blocks[:, :1]).all() else None


def _kind(matrix: Grouped) -> tuple[str, int]:
    """The smallest kind of block that holds every code less its zero point; ("", 0) if none does."""
    low, high = -int(matrix.zeros.max()), int(matrix.codes.max()) - int(matrix.zeros.min())
    return next(((kind, middle) for kind, middle in _KINDS if -middle <= low and high < middle), ("", 0))


def _same(halves: NDArray[np.float16], scales: NDArray[Any]) -> bool:
    """Whether float16 holds the scales as well as it holds numbers of its normal range."""
    wide = scales.astype(np.float32)
    with np.errstate(all="ignore"):
        return bool((np.abs(halves.astype(np.float32) - wide) <= np.abs(wide) * 2.0**-11).all())


def _blocks(
    kind: str, offset: int, matrix: Grouped, scales: NDArray[np.float16], group: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Rows [N, bytes] of blocks: the scale, of five bits the highest, then the codes or two of them in a byte."""
    codes: NDArray[Any] = matrix.codes.reshape(len(scales), -1, _BLOCK)
    shift = np.uint8(offset % 128) - matrix.zeros[:, group]  # Q8_0 has signed codes
    if shift.any():
        codes = codes + shift[..., None]
    parts: list[NDArray[Any]] = [np.ascontiguousarray(scales[:, group])[..., None].view(np.uint8)]
    if kind == "Q5_0":
        parts.append(np.packbits(codes >> 4, axis=-1, bitorder="little"))
        codes = codes & 15
    parts.append(codes if kind == "Q8_0" else codes[..., :16] | codes[..., 16:] << 4)
    return np.concatenate(parts, axis=-1).reshape(len(scales), -1)


def _floats(matrix: Grouped, why: str) -> Stored:
    """As F16 where that is close enough, else as F32."""
    values = matrix.values()
    halves = _halves(values)
    lost = np.linalg.norm(halves.astype(np.float32) - values, axis=1) > _CLOSE * np.linalg.norm(values, axis=1)
    kind, data = ("F32", values) if lost.any() else ("F16", halves)
    return Stored(kind, values.shape, data, note=f"widened to {kind}: their {why}")


def _halves(values: NDArray[Any]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)
