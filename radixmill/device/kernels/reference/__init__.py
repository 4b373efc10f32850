"""Every op of the contract in plain NumPy: the specification, and the fallback where there is no compiler."""

from __future__ import annotations

from radixmill.device.kernels.reference.ops import ReferenceOps

__all__ = ["ReferenceOps"]
