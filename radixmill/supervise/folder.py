"""Where sockets and pages lie that processes share."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")

_FULL = {errno.ENOSPC, errno.EDQUOT}


class Folder:
    """A private folder in memory, where there is one: a disk that fills up must not keep another engine from starting. If it
    is the memory that is full, what comes later lies in another one on disk."""

    def __init__(self, memory: str | None = None) -> None:
        """`memory`: a folder that lies there; None: wherever the system has one. Raises OSError."""
        found = memory or _memory()
        self._places = [found, None] if found else [None]  # None: the system's folder for temporary files
        self._all: list[Path] = []
        self.make(lambda _: None)

    @property
    def path(self) -> Path:
        """What is made now lies here."""
        return self._all[-1]

    def make(self, build: Callable[[Path], Made]) -> Made:
        """What `build` makes in the folder. Where there is no room it is called again for another. Raises OSError."""
        while True:
            try:
                if not self._all:
                    self._enter()
                return build(self.path)
            except OSError as error:
                if error.errno not in _FULL or not self._places:
                    raise
                self._enter()

    def remove(self) -> None:
        for path in self._all:
            shutil.rmtree(path, ignore_errors=True)

    def _enter(self) -> None:
        self._all.append(Path(tempfile.mkdtemp(prefix="radixmill-", dir=self._places.pop(0))))


def discard(paths: Iterable[Path]) -> None:
    """Files in memory are memory: whoever used them is dead."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _memory() -> str | None:
    memory = "/dev/shm"
    return memory if sys.platform == "linux" and os.access(memory, os.W_OK | os.X_OK) else None
