"""What a server holds: read from /proc and from its own account, before and after a storm."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radixmill.observe.pulse import FrontPulse
from tests.e2e.kit import Server

ROLES = ("engine", "front", "grammar")
GROWTH = 0.08  # of resident memory that a storm may leave: arenas of the allocator, caches of the interpreter
GROWTH_BYTES = 12 << 20


@dataclass(frozen=True)
class Process:
    pid: int
    role: str
    resident: int  # bytes, of its own: without files
    files: int  # open descriptors
    sockets: int
    threads: int


@dataclass(frozen=True)
class Footprint:
    processes: tuple[Process, ...]
    zombies: int
    asked: int  # sequences and questions that fronts wait for
    state: dict[str, Any]  # of the engine, by its own account

    @property
    def idle(self) -> bool:
        return not (self.asked or self.state.get("running") or self.state.get("waiting"))


def descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def process(pid: int) -> Process | None:
    """None: it is gone, or a zombie."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        links = []
        for number in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(number.readlink()))
        resident = _field(status, "RssAnon") << 10
    except (OSError, ValueError):
        return None
    role = next((role for role in ROLES if role in words), "supervisor")
    sockets = sum(link.startswith("socket:") for link in links)
    return Process(pid, role, resident, len(links), sockets, _field(status, "Threads"))


def _field(status: str, name: str) -> int:
    if (hit := re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)) is None:
        raise ValueError(name)
    return int(hit[1])


def zombies(pid: int) -> int:
    """Children that have ended and that nobody has reaped."""
    found = 0
    for each in descendants(pid):
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return found


def folder_of(server: Server) -> Path:
    """The server's private folder, by what its supervisor has mapped."""
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    hits = re.findall(r"(/\S+)/[\w.-]+\.pulse", maps)
    assert hits, "the supervisor has mapped no pulse"
    return Path(hits[0])


def asked(server: Server) -> int:
    """What the living fronts wait for, by their pages."""
    count = 0
    for pid in server.pids("front"):
        with contextlib.suppress(OSError, IndexError):
            path = re.findall(r"/\S+/front-\d+\.pulse", Path(f"/proc/{pid}/maps").read_text())[0]
            pulse = FrontPulse(Path(path))
            count += pulse.asked
            pulse.close()
    return count


def look(server: Server) -> Footprint:
    pids = [server.process.pid, *descendants(server.process.pid)]
    state: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        state = server.client.get(f"{server.url}/server_info", headers=KEY).json()["internal_states"][0]
    found = [each for pid in pids if (each := process(pid))]
    return Footprint(tuple(found), zombies(server.process.pid), asked(server), state)


KEY: dict[str, str] = {}  # headers of an admin, where the server wants them


def settled(server: Server, patience: float = 30.0) -> Footprint:
    """Its footprint once it has nothing left to do, or after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        now = look(server)
        if (now.idle and not now.zombies and now.state) or time.monotonic() > deadline:
            return now
        time.sleep(0.1)


def leaks(before: Footprint, after: Footprint) -> list[str]:
    """What is held that was not held before, each in a line."""
    found = []
    state = after.state
    if not state:
        found.append("the server gives no account of itself")
    elif (gone := state["pages_total"] - state["pages_free"] - state["pages_evictable"]) != 0:
        found.append(f"{gone} pages are held by nobody")
    if after.asked or state.get("running") or state.get("waiting"):
        found.append(f"sequences: {after.asked} asked, {state.get('running')} running, {state.get('waiting')} waiting")
    if after.zombies:
        found.append(f"{after.zombies} zombies")
    return found + _of_processes(before, after)


def _of_processes(before: Footprint, after: Footprint) -> list[str]:
    """Those that are still the same, against what they held before."""
    found = []
    had = {each.pid: each for each in before.processes}
    roles = [[each.role for each in print.processes if each.role != "grammar"] for print in (before, after)]
    if sorted(roles[0]) != sorted(roles[1]):
        found.append(f"processes: {roles[1]} instead of {roles[0]}")
    builders = sum(
        (each.role == "grammar") * sign for print, sign in ((before, -1), (after, 1)) for each in print.processes
    )
    for now in after.processes:
        helpers = max(builders, 0) if now.role == "engine" else 0  # it keeps a line to each builder of grammars it has
        if then := had.get(now.pid):
            name = f"{now.role} {now.pid}"
            if now.sockets > then.sockets + helpers:
                found.append(f"{name}: {now.sockets - then.sockets} sockets")
            if now.files > then.files + 2 * helpers:
                found.append(f"{name}: {now.files - then.files} descriptors")
            if now.threads > then.threads + 1:
                found.append(f"{name}: {now.threads - then.threads} threads")
            if now.resident > then.resident * (1 + GROWTH) + GROWTH_BYTES:
                found.append(f"{name}: {(now.resident - then.resident) >> 20} MiB of memory")
    return found
