"""Any stored kind → float32. The block formats of GGML are dequantised by the `gguf` package, their reference in Python."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.kernels.e4m3 import f8_values

_CHUNK = 1 << 20  # values dequantised at once: the reference makes several temporaries of this size


def widen(stored: Stored) -> Stored:
    """The same matrix as kind F32. Raises BadModel for a kind that cannot be read."""
    return replace(stored, kind="F32", data=_values(stored))


def _values(stored: Stored) -> NDArray[np.float32]:
    match stored.kind:
        case "F32" | "F16":
            return np.asarray(stored.data, np.float32)
        case "BF16":
            wide: NDArray[np.float32] = (stored.data.astype(np.uint32) << 16).view(np.float32)
            return wide
        case "F8B128":
            return f8_values(stored.data)
    return _by_chunks(stored)


def _by_chunks(stored: Stored) -> NDArray[np.float32]:
    rows, columns = stored.shape
    out = np.empty((rows, columns), np.float32)
    step = max(1, _CHUNK // columns)
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged file may hold scales that are not finite
        for at in range(0, rows, step):
            out[at : at + step] = _blocks(stored.kind, stored.data[at : at + step])
    return out


def _blocks(kind: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    if kind == "Q1_0":
        return _q1_0(data)
    if kind == "F8B128":
        return f8_values(data)
    from gguf import GGMLQuantizationType  # 0.1 s that models with kernels for all their kinds never pay
    from gguf.quants import dequantize

    try:
        values: NDArray[np.float32] = dequantize(np.ascontiguousarray(data), getattr(GGMLQuantizationType, kind))
    except (AttributeError, NotImplementedError):
        raise BadModel(f"tensors of type {kind} cannot be read", "Convert the model to another quantisation") from None
    return values


def _q1_0(data: NDArray[Any]) -> NDArray[np.float32]:
    """Blocks of 128 values: a float16 d, then one bit each, lowest first: 1 is d, 0 is −d. The package has no reader."""
    blocks = np.ascontiguousarray(data).reshape(data.shape[0], -1, 18)
    d = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little")
    return np.where(bits == 1, d, -d).reshape(data.shape[0], -1)
