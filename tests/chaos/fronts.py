"""A scene with two fronts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path

from tests.chaos.fold import Fold
from tests.chaos.kit import SMALL, House, Live, scene
from tests.chaos.mix import Wish, mixed


@scene("two fronts, one killed", "--fronts", "2", *SMALL)
async def two_fronts(house: House) -> None:
    count = 8 if house.quick else 24
    wishes = mixed(count, seed=house.rng.randrange(1 << 30), tokens=(500, 600) if house.tiny else (150, 200))
    twins = await house.twins(wishes)
    await house.settle()
    engine = house.engine()
    for _ in range(2 if house.quick else 8):
        running = asyncio.gather(*(late(house, i, wish, twins[i]) for i, wish in enumerate(wishes)))
        await house.until(lambda running=running: running.done() or under_way(house) >= count // 2, 120)
        owners = owners_of(house)
        fronts = house.server.pids("front")
        if len(fronts) != 2:
            house.figures.wrong.append(f"fronts: {fronts}")
            break
        load = {front: sum(owner == front for owner in owners.values()) for front in fronts}
        house.figures.notes.append(f"connections by front: {sorted(load.values())}")
        victim = max(fronts, key=lambda front: load[front])
        # It takes no more connections while it is looked at: one that it has taken since may break as well.
        os.kill(victim, signal.SIGSTOP)
        await house.until(lambda victim=victim: stopped(victim))
        owners = owners_of(house)
        open_then = list(house.live)
        os.kill(victim, signal.SIGKILL)
        house.figures.faults["kill -9 of a front"] += 1
        lives = await running
        judge(house, lives, open_then, owners, victim)
        await house.until(lambda victim=victim: len(set(house.server.pids("front")) - {victim}) == 2)
        await house.wait_ready()  # both: a front that has just started takes connections, and says that it loads
        await house.seen_idle(60.0)
    if house.engine() != engine:
        house.figures.wrong.append("a front's death took the engine with it")


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def under_way(house: House) -> int:
    """Streams that have said something and have not ended."""
    return sum(bool(live.fold.times) for live in house.live)


async def late(house: House, number: int, wish: Wish, twin: Fold) -> Live:
    """One after another: a front that wakes takes all connections that wait."""
    await asyncio.sleep(number * 0.03)
    return await house.run(wish, twin)


def judge(house: House, lives: list[Live], open_then: list[Live], owners: dict[int, int], victim: int) -> None:
    """Connections of the front that died may break; no other. One that was made since may have met the front that took its
    place, and that had not loaded: it was not accepted. Whoever held a connection before the death had."""
    for live in lives:
        if live.broke and live in open_then and owners.get(live.port) == victim:
            house.figures.faults["connections of a front that died"] += 1
        elif live.port not in owners and live.fold.status == 503 and "not_ready" in live.fold.error:
            house.figures.notes.append("a front that had not loaded said 503")
        else:
            house.judge([live])


def owners_of(house: House) -> dict[int, int]:
    """Which front holds the connection from which port of ours, by the kernel's tables."""
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(part.split(":")[1], 16) for part in fields[1:3])
        if local == house.address.port and remote:
            inodes[fields[9]] = remote
    found = {}
    for pid in house.server.pids("front"):
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    hit = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
                    if hit and hit[1] in inodes:
                        found[inodes[hit[1]]] = pid
    return found
