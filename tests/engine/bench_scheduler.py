"""How match, insertion, eviction and a step's scheduling grow.

Run by hand: python -m tests.engine.bench_scheduler [PLOT.png]
"""

from __future__ import annotations

import statistics
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from radixmill.core.config import ScheduleOptions
from radixmill.core.messages import Deltas
from radixmill.core.plan import StepResult
from radixmill.engine.cache import Cache
from radixmill.engine.schedule import Scheduler
from radixmill.link.codec import frame
from tests.engine.fakes import spec, submit

TREES = ((10, 100), (100, 100), (1000, 100), (10_000, 100), (1000, 1024))  # branches, tokens of each


def micros(call: Callable[[], Any], times: int = 200) -> float:
    """The median of single calls, in microseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


def fill(cache: Cache, branches: int, tokens: int, stem: int = 32, chunk: int = 512) -> list[array[int]]:
    """Branches with a common stem, each adopted in chunks."""
    prompts = []
    for branch in range(branches):
        keys = array("q", range(stem))
        keys.extend(array("q", np.random.default_rng(branch).integers(0, 50000, tokens - stem)))
        lease = cache.open("", keys)
        while lease.filled < tokens:
            upto = min(lease.filled + chunk, tokens)
            assert lease.grow(upto)
            lease.write(upto, -1)
            lease.adopt(keys, upto)
        lease.drop()
        prompts.append(keys)
    return prompts


Table = dict[str, list[float]]  # column → values, the first is what grows


def tree(page_size: int = 64, sizes: Sequence[tuple[int, int]] = TREES) -> Table:
    """Microseconds by the tree's size; `sizes`: branches, and tokens of each."""
    table: Table = {name: [] for name in ("tokens", "branches", "match 1k", "open+drop", "insert 1k", "evict")}
    for branches, tokens in sizes:
        cache = Cache([branches * (-(-tokens // page_size) + 2) + 4000], page_size)
        fill(cache, branches, tokens)
        (keys,) = fill(cache, 1, 1024, stem=31)
        match = micros(lambda cache=cache, keys=keys: cache.peek("", keys))
        hold = micros(lambda cache=cache, keys=keys: cache.open("", keys).drop())
        began = time.perf_counter()
        fill(cache, 20, 1024, stem=30)
        insert = (time.perf_counter() - began) / 20 * 1e6
        evict = micros(cache.tree.evict, min(200, branches))
        _add(table, branches * tokens, branches, match, hold, insert, evict)
    return table


def chain(page_size: int) -> str:
    """The worst shape for a match: a node per page."""
    cache = Cache([200], page_size)
    (keys,) = fill(cache, 1, 1024, chunk=page_size)
    return f"match of 1k tokens in a chain of {cache.tree.nodes} nodes: {micros(lambda: cache.peek('', keys)):.1f} us"


def steps(
    rows_of: Sequence[int] = (1, 16, 64, 256), context: int = 2048, times: int = 290, windows: tuple[int, ...] = ()
) -> Table:
    """Microseconds of a decode step by its rows: making the plan, taking the result, encoding what the front is told."""
    table: Table = {name: [] for name in ("rows", "schedule", "commit", "encode", "a row")}
    for rows in rows_of:
        pages = rows * (context // 64 + 2)
        model = spec(pages, page_size=64, slots=rows, context=context, windows=windows)
        scheduler = Scheduler(model, ScheduleOptions(max_running_requests=rows, step_tokens=1 << 20))
        for row in range(rows):
            scheduler.submit("front", submit([row] * 1000, row, max_tokens=times + 10))
        taken: list[tuple[float, float, float]] = []
        for _ in range(times):
            began = time.perf_counter()
            plan = scheduler.schedule()
            made = time.perf_counter()
            assert plan
            result = StepResult(plan.step, np.ones(plan.rows, np.int64), (), 0.01)
            planned = time.perf_counter()
            deltas = scheduler.commit(plan, result)
            done = time.perf_counter()
            frame(Deltas(tuple(delta for _, delta in deltas)))
            taken.append((made - began, done - planned, time.perf_counter() - done))
        each = [statistics.median(column) * 1e6 for column in zip(*taken[1:], strict=True)]
        _add(table, rows, *each, sum(each) / rows)
    return table


def held(lengths: Sequence[int] = (1024, 8192, 32768), window: int = 128, chunk: int = 512) -> Table:
    """What a window costs, by the sequence's length: pages that its lease holds of either kind; microseconds of a match
    whose tail is there, and of one whose tail is gone."""
    table: Table = {name: [] for name in ("tokens", "full", "window", "match", "no tail")}
    for length in lengths:
        pages = length // 64 + 2
        cache, keys, upto = Cache([pages, pages], 64, windows=[window]), array("q", range(length + 1)), 0
        lease = cache.open("", keys)
        while upto < length:
            upto = min(upto + chunk, length)
            assert lease.grow(upto)
            lease.write(upto, -1)
            lease.adopt(keys, upto)
        full, mine = len(lease.pages[0]), len(lease.holds(1))
        lease.drop()
        match = micros(lambda cache=cache, keys=keys: cache.peek("", keys))
        assert cache.tree.tails
        while cache.pools.windows[0].idle > 4:
            cache.tree.tails.strip(cache.pools.windows[0])
        gone = micros(lambda cache=cache, keys=keys[:-100]: cache.peek("", keys))
        _add(table, length, full, mine, match, gone)
    return table


def _add(table: Table, *values: float) -> None:
    for column, value in zip(table.values(), values, strict=True):
        column.append(value)


def show(title: str, table: Table) -> None:
    print(f"\n{title}\n" + "".join(f"{name:>11}" for name in table))
    for row in zip(*table.values(), strict=True):
        print("".join(f"{value:>11.0f}" if value == int(value) else f"{value:>11.1f}" for value in row))


def draw(path: str, *tables: Table) -> None:
    """Every column over the first, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4), layout="constrained")
    for axes, table in zip(figure.subplots(1, len(tables)), tables, strict=True):
        (name, sizes), *columns = table.items()
        for label, values in columns:
            if label != "branches":
                axes.loglog(sizes, values, marker="o", label=label)
        axes.set(xlabel=name, ylabel="microseconds")
        axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    trees, rows = tree(), steps()
    show("tree: microseconds", trees)
    print(chain(16))
    show("a decode step: microseconds", rows)
    show("a decode step, with a window of 128: microseconds", steps(windows=(128,)))
    show("a sequence with a window of 128: pages, microseconds", held())
    if len(sys.argv) > 1:
        draw(sys.argv[1], trees, rows)
