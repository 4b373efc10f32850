"""Stored formats: widening one to float32, and stacking matrices of one kind."""

from __future__ import annotations

from radixmill.device.quant.stacking import stack
from radixmill.device.quant.widening import widen

__all__ = ["stack", "widen"]
