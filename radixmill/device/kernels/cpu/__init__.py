"""The ops in C++; importable, and saying so, where the compiled module is missing."""

from __future__ import annotations

from radixmill.device.kernels.cpu.ops import CpuOps, isas, native_isa
from radixmill.device.kernels.cpu.probe import Peaks, measure

__all__ = ["CpuOps", "Peaks", "isas", "measure", "native_isa"]
