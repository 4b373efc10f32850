"""How fast this machine reads memory and multiplies, for `radixmill doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from radixmill.device.kernels.cpu.ops import _native

SECONDS = 0.3
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEAST, _MOST = 128 << 20, 1 << 30


class Peaks(NamedTuple):
    """All threads together, per second, with the instructions of `isa`."""

    isa: str
    read: float  # bytes from memory
    floats: float  # float32 operations; a multiply-add is two
    int8: float  # int8 operations


def measure(isa: str, threads: int, free_bytes: int) -> Peaks | None:
    """Takes about half a second. None where there is no compiled module, or no memory to read.

    What else runs on the machine makes the figures smaller.
    """
    nbytes = min(4 * last_cache(), _MOST)
    if _native is None or nbytes > free_bytes // 2:
        return None
    try:
        return Peaks(*_native.probe(isa, threads, nbytes, SECONDS))
    except MemoryError:
        return None


def last_cache(folder: Path = _CACHES) -> int:
    """Bytes of the largest cache that the system tells of; 32 MiB at least."""
    return max([_LEAST // 4, *(_size(path) for path in folder.glob("index*/size"))])


def _size(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text[:-1]) << 10 if text.endswith("K") and text[:-1].isdigit() else 0
