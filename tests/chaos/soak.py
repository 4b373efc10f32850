"""Twice as much load as the server can take, for half an hour: memory, latencies, errors.

    python -m tests.chaos.soak [--minutes 30] [--json FILE] [--plot FILE] [--model MODEL] [--seed N]

Requests come when they come, whether or not earlier ones have been answered. Exit status 1 where resident memory grows
over the last two thirds, or where a request that was not told 429 had no proper end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import footprint
from tests.chaos.figures import Figures, percentile, slope
from tests.chaos.kit import EMBEDDED, SMALL, House
from tests.chaos.mix import Wish, mixed
from tests.e2e.kit import tiny_model

GROWTH = 0.1  # percent per minute that resident memory may grow
FLAGS = (*SMALL, "--max-queued-requests", "64")


@dataclass
class Soak:
    """What was measured. Times are seconds since the load began."""

    capacity: float  # requests per second that are answered where as many come as are answered
    offered: float = 0.0  # requests per second that came
    memory: list[tuple[float, int]] = field(default_factory=list)  # bytes resident of all processes together
    latencies: list[tuple[float, float]] = field(default_factory=list)  # of answered requests: when asked, how long
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # answers without a proper end

    @property
    def growth(self) -> float:
        """Percent per minute of resident memory over the last two thirds."""
        return growth(self.memory)

    @property
    def good(self) -> bool:
        return self.growth < GROWTH and not self.broken and not set(self.statuses) - {200, 429}

    def plain(self) -> dict[str, Any]:
        took = [seconds for _, seconds in self.latencies]
        return {
            "capacity": self.capacity,
            "offered": self.offered,
            "statuses": dict(self.statuses),
            "broken": self.broken[:20],
            "growth_percent_per_minute": self.growth,
            "latency_p50": percentile(took, 0.5),
            "latency_p99": percentile(took, 0.99),
            "latency_max": max(took, default=0.0),
            "memory": self.memory,
            "latencies": self.latencies,
            "good": self.good,
        }

    def table(self) -> str:
        took = [seconds for _, seconds in self.latencies]
        rows = (
            ("capacity", f"{self.capacity:.2f} requests/s"),
            ("offered", f"{self.offered:.2f} requests/s"),
            ("by status", ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))),
            ("without a proper end", f"{len(self.broken)}"),
            ("latency of answered, p50 / p99 / max", f"{percentile(took, 0.5):.1f} / {percentile(took, 0.99):.1f} / {max(took, default=0.0):.1f} s"),
            ("resident memory, last two thirds", f"{self.growth:+.3f} % per minute"),
        )  # fmt: skip
        return "\n".join(f"{name:<38}{value}" for name, value in rows)


def growth(memory: Sequence[tuple[float, int]]) -> float:
    """Percent per minute, of the mean, over the last two thirds of the time; 0 of fewer than two samples."""
    if len(memory) < 2:
        return 0.0
    since = memory[0][0] + (memory[-1][0] - memory[0][0]) / 3
    late = [(at, size) for at, size in memory if at >= since]
    mean = sum(size for _, size in late) / len(late)
    return 100 * 60 * slope([at for at, _ in late], [size for _, size in late]) / mean


async def soak(house: House, seconds: float, warm: float) -> Soak:
    await house.wait_ready()
    await house.fill()
    wishes = mixed(150, house.rng.randrange(1 << 30), (16, 64))
    found = Soak(await capacity(house, wishes, warm))
    sampling = asyncio.create_task(_sample(house, found))
    await _offer(house, wishes, found, 2 * found.capacity, seconds)
    sampling.cancel()
    return found


async def capacity(house: House, wishes: Sequence[Wish], seconds: float, at_once: int = 16) -> float:
    """Requests per second, by so many clients that each ask again when they are answered."""
    until, done = time.monotonic() + seconds, 0

    async def client(number: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            number += at_once
            done += (await house.run(wishes[number % len(wishes)])).fold.status == 200

    began = time.monotonic()
    await asyncio.gather(*map(client, range(at_once)))
    return done / (time.monotonic() - began)


async def _offer(house: House, wishes: Sequence[Wish], found: Soak, rate: float, seconds: float) -> None:
    """Requests at random moments, on average `rate` a second."""
    tasks: set[asyncio.Task[None]] = set()
    began = at = time.monotonic()
    count = 0

    async def one(wish: Wish) -> None:
        asked = time.monotonic()
        live = await house.run(wish)
        found.statuses[live.fold.status] += 1
        if live.fold.status == 200:
            found.latencies.append((asked - began, time.monotonic() - asked))
        if live.broke or (live.fold.status == 200 and (live.fold.error or not live.fold.done)):
            found.broken.append(live.broke or live.fold.error or "no end")

    while at - began < seconds:
        at += house.rng.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        task = asyncio.create_task(one(house.rng.choice(wishes)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        count += 1
    found.offered = count / (time.monotonic() - began)
    await asyncio.gather(*tasks)


async def _sample(house: House, found: Soak) -> None:
    began = time.monotonic()
    while True:
        pids = [house.server.process.pid, *footprint.descendants(house.server.process.pid)]
        size = sum(each.resident for pid in pids if (each := footprint.process(pid)))
        found.memory.append((time.monotonic() - began, size))
        await asyncio.sleep(1.0)


def plot(found: Soak, path: Path) -> None:
    """Memory and latencies over time."""
    from radixmill.bench.plot import figure_class

    figure = figure_class()(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot([at / 60 for at, _ in found.memory], [size / 2**20 for _, size in found.memory], color="#2f6f9f", lw=1)
    above.set_title(
        f"resident memory of all processes, MiB ({found.growth:+.3f} % per minute)", fontsize=10, loc="left"
    )
    above.set_ylim(0)
    below.plot(
        [at / 60 for at, _ in found.latencies], [took for _, took in found.latencies], ".", color="#d98b2b", ms=2
    )
    told = found.statuses[429] / max(sum(found.statuses.values()), 1)
    below.set_title(f"seconds from request to the answer's end; {told:.0%} were told 429", fontsize=10, loc="left")
    below.set_xlabel("minutes at twice the capacity", fontsize=9)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


async def run(model: str | Path, folder: Path, *, seconds: float, warm: float, seed: int = 0) -> Soak:
    """On a server of its own."""
    house = House(model, folder, Figures(), random.Random(seed))
    with house.another(*FLAGS):
        return await soak(house, seconds, warm)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", default=Path("docs/soak.png"))
    parser.add_argument("--model", default=EMBEDDED, help="tiny: a small one of random weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    seconds = 60 * args.minutes
    with tempfile.TemporaryDirectory() as name:
        model = tiny_model(Path(name) / "tiny") if args.model == "tiny" else args.model
        found = asyncio.run(run(model, Path(name), seconds=seconds, warm=min(60.0, seconds), seed=args.seed))
    print(found.table())
    if args.json:
        args.json.write_text(json.dumps(found.plain()))
    plot(found, args.plot)
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
