"""Stored formats: widening one to float32, stacking matrices of one kind, and integers in groups as blocks."""

from __future__ import annotations

from radixmill.device.kernels.e4m3 import F8_BLOCK, f8_floats
from radixmill.device.quant.f8 import as_f8_blocks
from radixmill.device.quant.grouped import Grouped, as_blocks
from radixmill.device.quant.stacking import likeness, stack
from radixmill.device.quant.widening import widen
from radixmill.device.quant.words import awq_fields, fields

__all__ = [
    "F8_BLOCK",
    "Grouped",
    "as_blocks",
    "as_f8_blocks",
    "awq_fields",
    "f8_floats",
    "fields",
    "likeness",
    "stack",
    "widen",
]
