"""Twice as much load as the server can take, for half an hour: memory, latencies, errors.

    python -m tests.chaos.soak [--minutes 30] [--json FILE] [--plot FILE] [--model MODEL] [--seed N]

Requests come when they come, whether or not earlier ones have been answered. Exit status 1 where resident memory grows
over the last two thirds, or a process was replaced meanwhile, where answers take longer and longer or longer than a full queue
explains, or where a request that was not told 429 had no proper end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import footprint
from tests.chaos.figures import Figures, percentile, slope
from tests.chaos.kit import EMBEDDED, SMALL, House
from tests.chaos.mix import Wish, mixed
from tests.e2e.kit import tiny_model

GROWTH = 0.1  # percent per minute that resident memory may grow
RUNNING, QUEUED = 64, 64  # requests that run, and that wait, at most
# The second flag bounds all that are in: those that run are among them.
FLAGS = (*SMALL, "--max-running-requests", str(RUNNING), "--max-queued-requests", str(RUNNING + QUEUED))
SLOWER, SPARE = 1.5, 2.0  # what the last third's latencies may be, beside the first's: a factor, and seconds
UNEVEN = 2.0  # a request may have so much more to do than the mean, or be overtaken so often
WINDOW = 30.0  # seconds, of the plot's percentiles
NEWS = 60.0  # seconds between lines that tell how it goes


@dataclass
class Soak:
    """What was measured. Times are seconds since the load began."""

    capacity: float  # requests per second that are answered where as many come as are answered
    offered: float = 0.0  # requests per second that came
    memory: list[tuple[float, int]] = field(default_factory=list)  # bytes resident of all processes together
    latencies: list[tuple[float, float]] = field(default_factory=list)  # of answered requests: when asked, how long
    refused: list[float] = field(default_factory=list)  # when requests were told 429
    statuses: Counter[int] = field(default_factory=Counter)
    filled: bool = True  # every page of the pool had been used before
    broken: list[str] = field(default_factory=list)  # answers without a proper end
    lived: dict[int, str] = field(default_factory=dict)  # every process that was seen, by its id: what it is
    gone: set[int] = field(default_factory=set)  # those of them that were not seen any more

    def saw(self, processes: dict[int, str]) -> None:
        """These live now."""
        self.gone |= self.lived.keys() - processes.keys()
        self.lived |= processes

    @property
    def growth(self) -> float:
        """Percent per minute of resident memory over the last two thirds."""
        return growth(self.memory)

    @property
    def good(self) -> bool:
        return not self.complaints()

    @property
    def bound(self) -> float:
        """Seconds that an answer may take: those of all that can be in the server before it."""
        return UNEVEN * (RUNNING + QUEUED) / self.capacity + SPARE if self.capacity else 0.0

    @property
    def thirds(self) -> tuple[float, float]:
        """p99 of the latency of what was asked in the first third, and in the last."""
        asked = [at for at, _ in self.latencies]
        if not asked:
            return 0.0, 0.0
        low, high = min(asked), max(asked)
        third = (high - low) / 3
        first = [took for at, took in self.latencies if at <= low + third]
        last = [took for at, took in self.latencies if at >= high - third]
        return percentile(first, 0.99), percentile(last, 0.99)

    def complaints(self) -> list[str]:
        """What is not as it should be, each in a line."""
        found = [f"without a proper end: {each}" for each in self.broken[:20]]
        if not self.filled:
            found.append("the pool was not filled before: growth says nothing")
        replaced = (f"{self.lived[pid]} {pid}" for pid in sorted(self.gone))
        found += [f"{each} did not live to the end: the memory of another starts anew" for each in replaced]
        if len(self.memory) < 3 or not self.latencies:
            found.append("too little was measured")
        span = self.memory[-1][0] if self.memory else 0.0
        if span * self.capacity > 2 * (RUNNING + QUEUED) and not self.statuses[429]:
            found.append("nobody was told 429: the load was not beyond the capacity")
        if self.growth >= GROWTH:
            found.append(f"memory grows by {self.growth:.3f} % per minute")
        if others := set(self.statuses) - {200, 429}:
            found.append(f"answers of other statuses than 200 and 429: {sorted(others)}")
        first, last = self.thirds
        if last > SLOWER * first + SPARE:
            found.append(f"answers take longer and longer: p99 {first:.1f} s at first, {last:.1f} s in the end")
        if (longest := max((took for _, took in self.latencies), default=0.0)) > self.bound:
            found.append(f"an answer took {longest:.1f} s, longer than a full queue explains ({self.bound:.1f} s)")
        return found

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
            "latency_p99_first_and_last_third": self.thirds,
            "latency_bound": self.bound,
            "pool_filled": self.filled,
            "complaints": self.complaints(),
            "refused": self.refused,
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
            ("  at most, by a full queue ÷ capacity", f"{self.bound:.1f} s"),
            ("  p99, first third / last third", f"{self.thirds[0]:.1f} / {self.thirds[1]:.1f} s"),
            ("pool filled before", "yes" if self.filled else "NO"),
            ("resident memory, last two thirds", f"{self.growth:+.3f} % per minute"),
        )  # fmt: skip
        return "\n".join(f"{name:<38}{value}" for name, value in rows)


def growth(memory: Sequence[tuple[float, int]]) -> float:
    """Percent per minute, of the mean, over the last two thirds of the time; 0 of fewer than two samples."""
    if len(memory) < 2:
        return 0.0
    late = settled(memory)
    mean = sum(size for _, size in late) / len(late)
    return 100 * 60 * slope([at for at, _ in late], [size for _, size in late]) / mean


def settled(memory: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The samples of the last two thirds of the time."""
    since = memory[0][0] + (memory[-1][0] - memory[0][0]) / 3
    return [(at, size) for at, size in memory if at >= since]


async def soak(house: House, seconds: float, warm: float) -> Soak:
    await house.wait_ready()
    filled = await house.fill()
    wishes = mixed(150, house.rng.randrange(1 << 30), (16, 64))
    found = Soak(await capacity(house, wishes, warm), filled=filled)
    sampling = asyncio.create_task(_sample(house, found))
    await _offer(house, wishes, found, 2 * found.capacity, seconds)
    sampling.cancel()
    return found


async def capacity(house: House, wishes: Sequence[Wish], seconds: float, at_once: int = RUNNING) -> float:
    """Requests per second, by so many clients that each ask again when they are answered."""
    until, done = time.monotonic() + seconds, 0

    async def client(number: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            number += at_once
            live = await house.run(wishes[number % len(wishes)])
            done += live.fold.status == 200  # in a line of its own: `+=` reads before it waits

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
        if live.fold.status == 429:
            found.refused.append(asked - began)
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
        at = time.monotonic() - began
        if at // NEWS > (found.memory[-1][0] if found.memory else 0.0) // NEWS:
            statuses = ", ".join(f"{status}: {count}" for status, count in sorted(found.statuses.items()))
            print(f"{at / 60:.0f} min: {size / 2**20:.0f} MiB; answers {statuses}", file=sys.stderr, flush=True)
        found.memory.append((at, size))
        found.saw({each.pid: each.role for each in lasting(house.server.process.pid)})
        await asyncio.sleep(1.0)


def lasting(pid: int, below: int = 2) -> Iterator[footprint.Process]:
    """A supervisor, its engines and fronts, and theirs that try grammars; not the forks of these, which come and go."""
    if found := footprint.process(pid):
        yield found
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir() if below else ():
            for child in (task / "children").read_text().split():
                yield from lasting(int(child), below - 1)


def plot(found: Soak, path: Path) -> None:
    """Memory with the line that was fitted, latencies, and refusals, over minutes."""
    from radixmill.bench.plot import figure_class

    figure = figure_class()(figsize=(10, 8), layout="constrained")
    memory, latency, refused = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    _plot_memory(memory, found)
    for share, colour in ((0.5, "#2f6f9f"), (0.99, "#d98b2b")):
        points = [(at, percentile(took, share)) for at, took in windows(found.latencies) if took]
        latency.plot(
            [at for at, _ in points], [took for _, took in points], color=colour, lw=1.5, label=f"p{share * 100:g}"
        )
    latency.legend(fontsize=8, frameon=False)
    latency.set_title(
        f"seconds from request to the answer's end, per {WINDOW:g} s (at most {found.bound:.0f} by a full queue ÷ capacity)",
        fontsize=10,
        loc="left",
    )
    bars = [(at, len(each)) for at, each in windows([(at, 1.0) for at in found.refused])]
    refused.bar([at for at, _ in bars], [count for _, count in bars], width=WINDOW / 60 * 0.8, color="#b5483a")
    told = found.statuses[429] / max(sum(found.statuses.values()), 1)
    refused.set_title(f"requests told 429, per {WINDOW:g} s ({told:.0%} of all)", fontsize=10, loc="left")
    refused.set_xlabel(
        f"minutes at {found.offered / found.capacity:.1f} × the capacity of {found.capacity:.2f} requests/s", fontsize=9
    )
    for axes in (memory, latency, refused):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0)
    figure.savefig(path, dpi=130)


def _plot_memory(axes: Any, found: Soak) -> None:
    axes.plot([at / 60 for at, _ in found.memory], [size / 2**20 for _, size in found.memory], color="#2f6f9f", lw=1.2)
    late = settled(found.memory)
    middle, mean = (sum(column) / len(late) for column in zip(*late, strict=True))
    ends = (late[0][0], late[-1][0])
    line = [mean * (1 + found.growth / 100 / 60 * (at - middle)) / 2**20 for at in ends]
    axes.plot([at / 60 for at in ends], line, color="#d98b2b", lw=2, ls="--", label=f"{found.growth:+.3f} % per minute")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title("resident memory of all processes, MiB", fontsize=10, loc="left")


def windows(points: Sequence[tuple[float, float]]) -> list[tuple[float, list[float]]]:
    """The values of each WINDOW seconds, by its middle in minutes."""
    by_window: dict[int, list[float]] = {}
    for at, value in points:
        by_window.setdefault(int(at // WINDOW), []).append(value)
    last = max(by_window, default=-1)
    return [((number + 0.5) * WINDOW / 60, by_window.get(number, [])) for number in range(last + 1)]


async def run(model: str | Path, folder: Path, *, seconds: float, warm: float, seed: int = 0) -> Soak:
    """On a server of its own."""
    house = House(model, folder, Figures(), random.Random(seed))
    with house.another(*FLAGS):
        return await soak(house, seconds, warm)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
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
    if args.plot:
        plot(found, args.plot)
    print("\n".join(found.complaints()) or "all is well")
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
