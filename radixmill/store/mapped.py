"""Memory maps of files that may be missing or empty, and names from files that may hold anything.

Pages of a map that were read count as memory of the process that read them until they are given back. `Lent` does that
for who reads tensors one after another: asking for the next gives back those before. Views of them stay good; their bytes
are read from the file again. Who stacks several asks for all before reading any, so the last few are given back each time.
"""

from __future__ import annotations

import mmap
from collections import deque
from pathlib import Path

from radixmill.core.errors import BadModel

_KEPT = 8  # parts; more than anyone asks for before reading them


def mapped(path: Path) -> mmap.mmap:
    """The whole file, read-only. Raises BadModel if it is missing, empty or unreadable."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise BadModel(f"{path} is empty", "Copy or download it again") from None
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from None


class Lent:
    """The parts of maps that were lent last."""

    def __init__(self) -> None:
        self._parts: deque[tuple[mmap.mmap, int, int]] = deque(maxlen=_KEPT)  # [start, end)

    def lend(self, map: mmap.mmap, start: int, nbytes: int) -> None:
        """The memory of what was lent before is given back."""
        self._give_back()
        self._parts.append((map, start, start + nbytes))

    def end(self) -> None:
        """Forget the maps."""
        self._give_back()
        self._parts.clear()

    def _give_back(self) -> None:
        if advice := getattr(mmap, "MADV_DONTNEED", None):  # systems without it know best
            for map, start, end in self._parts:
                first = start - start % mmap.PAGESIZE
                if end > first:
                    map.madvise(advice, first, end - first)


def shown(name: str) -> str:
    """`name` quoted, on one line of a message, and not too long."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")
