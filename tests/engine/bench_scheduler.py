"""How match, insertion, eviction and a step's scheduling grow. Run by hand: python -m tests.engine.bench_scheduler"""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from radixmill.core.config import ScheduleOptions
from radixmill.core.plan import StepResult
from radixmill.engine.cache import Cache
from radixmill.engine.schedule import Scheduler
from tests.engine.fakes import spec, submit


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


def tree(page_size: int = 64) -> None:
    print(
        f"\ntree, page size {page_size}: microseconds\n{'tokens':>9} {'branches':>9} {'match 1k':>9} {'open+drop':>9} {'insert 1k':>9} {'evict':>7}"
    )
    for branches, tokens in ((10, 100), (100, 100), (1000, 100), (10_000, 100), (1000, 1024)):
        pages = branches * (-(-tokens // page_size) + 2) + 4000
        cache = Cache([pages], page_size)
        fill(cache, branches, tokens)
        (keys,) = fill(cache, 1, 1024, stem=31)
        match = micros(lambda cache=cache, keys=keys: cache.peek("", keys))
        hold = micros(lambda cache=cache, keys=keys: cache.open("", keys).drop())
        began = time.perf_counter()
        fill(cache, 20, 1024, stem=30)
        insert = (time.perf_counter() - began) / 20 * 1e6
        evict = micros(cache.tree.evict, min(200, branches))
        print(f"{branches * tokens:>9} {branches:>9} {match:>9.1f} {hold:>9.1f} {insert:>9.1f} {evict:>7.1f}")


def chain(page_size: int) -> None:
    """The worst shape for a match: a node per page."""
    cache = Cache([200], page_size)
    (keys,) = fill(cache, 1, 1024, chunk=page_size)
    print(f"match of 1k tokens in a chain of {cache.tree.nodes} nodes: {micros(lambda: cache.peek('', keys)):.1f} us")


def steps(context: int = 2048) -> None:
    print(f"\nschedule + commit of decode steps\n{'rows':>6} {'schedule us':>12} {'commit us':>10} {'us per row':>11}")
    for rows in (1, 16, 64, 256):
        model = spec(pages=rows * (context // 64 + 2), page_size=64, slots=rows, context=context)
        scheduler = Scheduler(model, ScheduleOptions(max_running_requests=rows, step_tokens=1 << 20))
        for row in range(rows):
            scheduler.submit("front", submit([row] * 1000, row, max_tokens=300))
        made, done = [], []
        for _ in range(290):
            began = time.perf_counter()
            plan = scheduler.schedule()
            made.append(time.perf_counter() - began)
            assert plan
            result = StepResult(plan.step, np.ones(plan.rows, np.int64), (), 0.01)
            began = time.perf_counter()
            scheduler.commit(plan, result)
            done.append(time.perf_counter() - began)
        a, b = statistics.mean(made[1:]) * 1e6, statistics.mean(done[1:]) * 1e6
        print(f"{rows:>6} {a:>12.0f} {b:>10.0f} {(a + b) / rows:>11.2f}")


if __name__ == "__main__":
    tree()
    chain(16)
    steps()
