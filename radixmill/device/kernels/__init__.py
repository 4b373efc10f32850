"""Backends: who computes the ops of `contract`."""

from __future__ import annotations

from radixmill.device.kernels.contract import Mode, Ops
from radixmill.device.kernels.cpu import CpuOps, isas, native_isa

__all__ = ["isas", "native_isa", "open_backend"]


def open_backend(backend: str, mode: Mode, threads: int, isa: str) -> Ops:
    """The ops of "cpu" (compiled; isa one of `isas()`) or "reference" (plain NumPy; isa is ignored).

    Raises ValueError for a backend or isa that this install or this machine does not have.
    """
    match backend:
        case "cpu":
            return CpuOps(mode, threads, isa)
        case "reference":
            return _reference(mode, threads)
        case _:
            raise ValueError(f"no backend {backend!r}; there are cpu and reference")


def _reference(mode: Mode, threads: int) -> Ops:
    # Imported only here: it brings the gguf package, which a compiled backend has no use for.
    from radixmill.device.kernels.reference import ReferenceOps

    return ReferenceOps(mode, threads)
