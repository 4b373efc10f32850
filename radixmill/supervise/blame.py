"""Who killed an engine: itself, with what it was computing, or somebody from outside?"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

WINDOW = 2.0  # seconds; a killed process that had much memory takes some to end


class Blame:
    """Of one engine. SIGKILL comes from whoever is at the machine, or from a kernel that has run out of memory, and then what
    the engine computed may be the cause; a process that stands stopped was stopped by somebody."""

    def __init__(self) -> None:
        self._before = self._lately = _ooms()  # as they were one to two windows ago, and up to one
        self._looked = float("-inf")

    def look(self, now: float) -> None:
        """Time passes: what the kernel killed long ago was not this engine. `now` by the monotonic clock."""
        if now - self._looked >= WINDOW:
            self._looked, self._before, self._lately = now, self._lately, _ooms()

    def foreign(self, status: int) -> bool:
        """Whether an end with this exit status was nothing of the engine's own. False where that can't be told."""
        ooms = _ooms()
        return status == -signal.SIGKILL and ooms is not None and ooms == self._before


def stopped(pid: int) -> bool:
    """Whether a process stands still because it was told to (SIGSTOP, a debugger)."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "tT"
    return False


def _ooms() -> int | None:
    """Processes that this machine's kernel has killed for memory; None where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None
