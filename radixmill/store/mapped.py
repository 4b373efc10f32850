"""Memory maps of files that may be missing or empty, and names from files that may hold anything."""

from __future__ import annotations

import mmap
from pathlib import Path

from radixmill.core.errors import BadModel


def mapped(path: Path) -> mmap.mmap:
    """The whole file, read-only. Raises BadModel if it is missing, empty or unreadable."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise BadModel(f"{path} is empty", "Copy or download it again") from None
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from None


def shown(name: str) -> str:
    """`name` quoted, on one line of a message, and not too long."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")
