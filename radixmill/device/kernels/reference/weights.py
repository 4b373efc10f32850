"""Stored matrices → float32 matrices, and activations as the quantised formats see them."""

from __future__ import annotations

import gguf
import numpy as np

from radixmill.device.kernels.contract import Stored
from radixmill.device.kernels.e4m3 import f8_values
from radixmill.device.kernels.reference.tiles import Floats

FORMATS = {
    "F32": "f32", "F16": "f16", "BF16": "bf16", "Q4_0": "w4", "Q4_1": "w4", "Q5_0": "w5", "Q5_1": "w5", "Q8_0": "w8",
    "Q2_K": "w2k", "Q3_K": "w3k", "Q4_K": "w4k", "Q5_K": "w5k", "Q6_K": "w6k",
    "IQ4_NL": "w4n", "IQ4_XS": "w4nk", "MXFP4": "w4f", "F8B128": "f8",
}  # fmt: skip
FLOAT_FORMATS = frozenset({"f32", "f16", "bf16", "f8"})  # the others see int8 activations in `fast` mode
GROUP = 32  # values that share a scale


def widen(stored: Stored) -> Floats:
    """The matrix's values, [N, K], exactly as its format defines them."""
    if stored.kind in ("F32", "F16"):
        values = np.ascontiguousarray(stored.data, dtype=np.float32)
    elif stored.kind == "BF16":
        values = (stored.data.astype(np.uint32) << 16).view(np.float32)
    elif stored.kind == "F8B128":
        values = f8_values(stored.data)
    else:
        kind = gguf.GGMLQuantizationType[stored.kind]
        values = np.ascontiguousarray(gguf.quants.dequantize(stored.data, kind), dtype=np.float32)
    if values.shape != stored.shape:
        raise ValueError(f"{stored.kind} data holds {values.shape}, not {stored.shape}")
    return values.copy() if np.may_share_memory(values, stored.data) else values


def as_int8(x: Floats) -> Floats:
    """x [T, K] rounded to what int8 codes with one scale per group of 32 can say; same shape, float32."""
    groups = x.reshape(len(x), x.shape[1] // GROUP, GROUP)
    with np.errstate(all="ignore"):
        scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
        codes = np.where(scale == 0, np.float32(0), np.rint(groups / scale))
        return (np.clip(codes, -127, 127) * scale).reshape(x.shape)
