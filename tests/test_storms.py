"""Storms: clients that leave, abort and dawdle, engines that die. Afterwards nothing is held, and nothing has grown."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from tests.storm_kit import PATHS, Visit, body, open_files, storm, until_true, world

GUESTS = int(os.environ.get("RADIXMILL_STORM", "400"))


@pytest.mark.parametrize("seed", range(3))
def test_after_a_storm_nothing_is_left(tmp_path: Path, seed: int) -> None:
    async def story() -> None:
        async with world(tmp_path) as home:
            statuses = await storm(home, Random(seed), GUESTS, deaths=6)
            assert set(statuses) <= {0, 200}, statuses
            assert statuses[200] > GUESTS / 4 and home.deaths
            assert home.client.submitted > GUESTS / 2

    asyncio.run(story())


def test_storm_after_storm_nothing_grows(tmp_path: Path) -> None:
    """From the second to the fifth: files, threads, and what Python has allocated."""
    found: list[tuple[int, int, int]] = []

    async def story() -> None:
        async with world(tmp_path) as home:
            for round in range(5):
                await storm(home, Random(round), GUESTS // 2, deaths=2)
                await home.client.control("flush_cache")
                home.machine.executor.steps.clear()
                home.client.ends.clear()
                home.client.submitted = 0
                gc.collect()
                if not round:
                    tracemalloc.start()  # what the first one warmed up does not count
                found.append((open_files(), threading.active_count(), tracemalloc.get_traced_memory()[0]))

    try:
        asyncio.run(story())
    finally:
        tracemalloc.stop()
    files, threads, sizes = zip(*found, strict=True)
    assert files[4] <= files[1] and threads[4] <= threads[1], found
    assert sizes[4] - sizes[1] < 200_000, found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_at_most_the_step_under_way_computes_for_a_client_that_has_left(
    tmp_path: Path, path: str, stream: bool
) -> None:
    """Held inside a step, its client leaves; all later steps are another's alone."""

    async def story() -> None:
        async with world(tmp_path) as home:
            executor, scheduler = home.machine.executor, home.machine.scheduler
            executor.pause = 0.01  # so that what is to be seen is not over before we look
            request = {**body(Random(1), path), "stream": stream, "background": False, "n": 1, "ignore_eos": True}
            request |= {"max_tokens": 60} if "max_tokens" in request else {}
            request |= {"max_output_tokens": 60} if path == "/v1/responses" else {}
            request |= {"sampling_params": {"max_new_tokens": 60}} if path == "/generate" else {}
            other = Visit(home.app, "/v1/completions", {"prompt": "z", "max_tokens": 190})
            one = Visit(home.app, path, request)
            others = asyncio.create_task(other.run())
            await until_true(lambda: len(executor.steps) > 2)
            running = asyncio.create_task(one.run())
            await until_true(lambda: len(scheduler.running.rows) > 1)
            executor.gate.clear()
            executor.pause = 0
            await until_true(lambda: bool(executor.steps) and len(executor.steps[-1]) > 1)
            one.leave()
            await running
            assert home.session.live == 1
            held = len(executor.steps)
            executor.gate.set()
            await others
            after = executor.steps[held:]
            assert len(after) > 5 and all(len(slots) == 1 for slots in after), after
            await home.settled()

    asyncio.run(story())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_who_leaves_the_queue_is_never_computed(tmp_path: Path, path: str, stream: bool) -> None:
    """All slots are taken; the client leaves while it waits; or there is no engine at all."""

    async def story() -> None:
        async with world(tmp_path) as home:
            executor, scheduler = home.machine.executor, home.machine.scheduler
            executor.pause = 0.01  # so that what is to be seen is not over before we look
            busy = [Visit(home.app, "/v1/completions", {"prompt": [c] * 4, "max_tokens": 190}) for c in "xy"]
            tasks = [asyncio.create_task(visit.run()) for visit in busy]
            await until_true(lambda: len(scheduler.running.rows) == 8)
            executor.gate.clear()
            executor.pause = 0
            one = Visit(home.app, path, {**body(Random(1), path), "stream": stream, "background": False})
            running = asyncio.create_task(one.run())
            await until_true(lambda: home.session.live >= 3)
            one.leave()
            await running
            executor.gate.set()
            await asyncio.gather(*tasks)
            await home.settled()
            assert scheduler.counters.admissions - scheduler.counters.preemptions == 8
            home.machine.die()
            two = Visit(home.app, path, {**body(Random(1), path), "stream": stream, "background": False})
            running = asyncio.create_task(two.run())
            await until_true(lambda: home.session.live > 0)
            two.leave()
            await running
            assert not home.client._journal._live and not home.session.live

    asyncio.run(story())


def test_aborting_everything_frees_everything(tmp_path: Path) -> None:
    """Also what waits, and twice is as good as once; an id that nobody has is no error."""

    async def story() -> None:
        async with world(tmp_path) as home:
            dice = Random(5)
            visits = [Visit(home.app, path, {**body(dice, path), "background": False}) for path in PATHS * 8]
            home.machine.executor.gate.clear()
            tasks = [asyncio.create_task(visit.run()) for visit in visits]
            await until_true(lambda: home.session.live > 30)
            orders = [{"abort_all": True}, {"abort_all": True}, {"rid": "nobody"}]
            answers = [await Visit(home.app, "/abort_request", order).run() for order in orders]
            home.machine.executor.gate.set()
            assert [answer.status for answer in answers] == [200] * 3 and answers[2].heard == b'{"aborted":0}'
            await asyncio.gather(*tasks)
            assert {visit.status for visit in visits} == {200}
            await home.settled()

    asyncio.run(story())
