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

ROLES = {
    "engine": "engine",
    "front": "front",
    "grammar": "grammar",
    "radixmill.front.session.guest_host": "guest",
}  # by a word
LATER = {"grammar": "engine", "guest": "front"}  # started when first needed, and by whom, who has a line to it
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
    files: int  # in the private folder

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
    role = next((role for word, role in ROLES.items() if word in words), "supervisor")
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
    """The private folder in which a server makes files now, by the newest page that its supervisor has mapped."""
    pages = mapped(server.process.pid, r"[\w.-]+\.pulse")
    assert pages, "the supervisor has mapped no pulse"
    return max(pages, key=lambda path: path.stat().st_mtime if path.exists() else 0.0).parent


def mapped(pid: int, name: str) -> list[Path]:
    """Files of such a name that a process has mapped, as seen from here: it may have a /dev/shm of its own."""
    found = re.findall(rf"(/\S+/{name})$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    return [Path(f"/proc/{pid}/root{path}") for path in dict.fromkeys(found)]


def asked(server: Server) -> int:
    """What the living fronts wait for, by their pages."""
    count = 0
    for pid in server.pids("front"):
        with contextlib.suppress(OSError, IndexError):
            pulse = FrontPulse(mapped(pid, r"front-\d+\.pulse")[0])
            count += pulse.asked
            pulse.close()
    return count


def look(server: Server) -> Footprint:
    pids = [server.process.pid, *descendants(server.process.pid)]
    state: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        state = server.client.get(f"{server.url}/server_info", headers=KEY).json()["internal_states"][0]
    found = [each for pid in pids if (each := process(pid))]
    files = sum(1 for _ in folder_of(server).iterdir())
    return Footprint(tuple(found), zombies(server.process.pid), asked(server), state, files)


KEY: dict[str, str] = {}  # headers of an admin, where the server wants them


def settled(server: Server, patience: float = 30.0) -> Footprint:
    """Its footprint once it has nothing left to do, or after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        now = look(server)
        if (now.idle and not now.zombies and now.state) or time.monotonic() > deadline:
            return now
        time.sleep(0.1)


def groups(state: dict[str, Any]) -> list[dict[str, int]]:
    """Pages of each KV group."""
    return [state, *state.get("kv_windows", ())]


def leaks(before: Footprint, after: Footprint, *, filled: bool = True) -> list[str]:
    """What is held that was not held before, each in a line. `filled`: every page of the pool had been used both times;
    where not, the engine's memory tells nothing."""
    found = []
    state = after.state
    if not state:
        found.append("the server gives no account of itself")
    pages = groups(state) if state else []
    held = [each["pages_total"] - each["pages_free"] - each["pages_evictable"] for each in pages]
    found += [f"{gone} pages are held by nobody" for gone in held if gone]
    if after.asked or state.get("running") or state.get("waiting"):
        found.append(f"sequences: {after.asked} asked, {state.get('running')} running, {state.get('waiting')} waiting")
    if after.zombies:
        found.append(f"{after.zombies} zombies")
    if after.files > before.files:
        found.append(f"{after.files - before.files} files in the private folder")
    return found + _of_processes(before, after, filled)


def _of_processes(before: Footprint, after: Footprint, filled: bool) -> list[str]:
    """Each against the one that played its role before, be it itself or one that it took over from."""
    found = []
    had, have = by_role(before), by_role(after)
    lines = {by: len(have.pop(role, ())) > len(had.pop(role, ())) for role, by in LATER.items()}
    if (roles := [{role: len(each) for role, each in both.items()} for both in (had, have)])[0] != roles[1]:
        found.append(f"processes: {roles[1]} instead of {roles[0]}")
    for role, now in have.items():
        line = int(lines.get(role, False))  # its end of the line to what it has started by now
        for then, it in zip(had.get(role, ())[:1], now[:1], strict=False):
            found += [f"{role} {it.pid}: {what}" for what in _grown(then, it, line)]
            if (filled or role != "engine") and it.resident > then.resident * (1 + GROWTH) + GROWTH_BYTES:
                found.append(f"{role} {it.pid}: {(it.resident - then.resident) >> 20} MiB of memory")
    return found


def _grown(then: Process, now: Process, line: int) -> list[str]:
    found = []
    if now.sockets > then.sockets + line:
        found.append(f"{now.sockets - then.sockets} sockets")
    if now.files > then.files + line:
        found.append(f"{now.files - then.files} descriptors")
    if now.threads > then.threads + 1:
        found.append(f"{now.threads - then.threads} threads")
    return found


def by_role(footprint: Footprint) -> dict[str, list[Process]]:
    """All of one role as if they were one, so that they can be compared when they are others; what is started later one by one. A
    connection of ours that is kept alive may lie with either front."""
    found: dict[str, list[Process]] = {}
    for each in footprint.processes:
        found.setdefault(each.role, []).append(each)
    return {role: all if role in LATER else [_together(all)] * len(all) for role, all in found.items()}


def _together(all: list[Process]) -> Process:
    sums = [sum(getattr(each, name) for each in all) for name in ("resident", "files", "sockets", "threads")]
    return Process(max(each.pid for each in all), all[0].role, *sums)
