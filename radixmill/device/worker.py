"""What this machine gives a model: cores, free memory, and the instruction set that the compiled kernels can use."""

from __future__ import annotations

import os
from pathlib import Path

from radixmill.core.config import Hardware
from radixmill.device.kernels import native_isa

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_V1 = _CGROUP / "memory"


def detect() -> Hardware:
    """Look at the machine, and at the limits of the container this process may live in."""
    return Hardware(cores=cores(), free_bytes=free_bytes(), isa=native_isa())


def cores() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP, cgroup_v1: Path = _CGROUP_V1) -> int:
    """Memory that can be had without swapping: the machine's, or the container's where that is less."""
    v2 = _group_room(cgroup, "memory.max", "memory.current", "inactive_file")
    v1 = _group_room(cgroup_v1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return min(room for room in (_machine_room(meminfo), v2, v1) if room is not None)


def _machine_room(meminfo: Path) -> int:
    """MemAvailable (see proc(5)); where there is no /proc, half of what is fitted."""
    available = _table(meminfo).get("MemAvailable:")
    if available is not None:
        return available * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _group_room(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes left under a control group's limit, counting file cache that can be dropped; None: no limit."""
    most, taken = _number(folder / limit), _number(folder / used)
    if most is None or taken is None:
        return None
    droppable = _table(folder / "memory.stat").get(cache, 0)
    return max(most - (taken - min(droppable, taken)), 0)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """Lines of "name number …" → {name: number}; empty where there is no such file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
