"""The ops in C++; importable, and saying so, where the compiled module is missing."""

from __future__ import annotations

from radixmill.device.kernels.cpu.ops import CpuOps, isas, native_isa

__all__ = ["CpuOps", "isas", "native_isa"]
