"""Engines that stand still are killed and replaced, streams go on; those that are only slow, or watched by someone who was
away, are let be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixmill.observe.pulse import EnginePulse
from tests.e2e.faults import SLOW, faulty
from tests.e2e.kit import Server, folder_of, same, serving, stream
from tests.e2e.test_recovery import body
from tests.e2e.test_supervisor import wait_until

PATIENCE = 3.0  # seconds, more than a machine that does much else keeps an engine waiting


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("stall")
    flags = ["--load-format", "dummy", "--stall-timeout", str(PATIENCE)]
    with serving(tiny, *flags, folder=folder, environment=faulty(folder, seconds=PATIENCE / 4)) as started:
        yield started


def wedged(server: Server) -> int:
    return server.log.read_text().count("is wedged")


async def paused(
    server: Server, pid: int, seconds: float, request: dict[str, Any], until: Callable[[], bool] = lambda: False
) -> tuple[dict[str, Any], float]:
    """The fold of a stream during which a process stands still for so long, or until something has happened; and for how
    many seconds it did."""
    said = asyncio.Event()
    task = asyncio.create_task(stream(server.url, request, on_chunk=said.set))
    await said.wait()
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        while time.monotonic() < began + seconds and not until():
            await asyncio.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        took = time.monotonic() - began
    return await task, took


LONG = body(4, 600)


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> dict[str, Any]:
    return asyncio.run(stream(server.url, LONG))


def test_an_engine_that_stands_still_is_replaced(server: Server, undisturbed: dict[str, Any]) -> None:
    before, (engine,) = wedged(server), server.pids("engine")
    folded, _ = asyncio.run(paused(server, engine, 60, LONG, until=lambda: wedged(server) > before))
    assert same(folded, undisturbed) and wedged(server) == before + 1
    assert engine not in server.pids("engine")


def test_a_short_stop_is_forgiven(server: Server, undisturbed: dict[str, Any]) -> None:
    for _ in range(10):
        before, (engine,) = wedged(server), server.pids("engine")
        folded, took = asyncio.run(paused(server, engine, PATIENCE / 3, LONG))
        assert same(folded, undisturbed)
        if took < PATIENCE / 2:  # else it was no short one: we were kept from ending it
            break
    else:
        pytest.fail("no stop was short")
    assert wedged(server) == before and server.pids("engine") == [engine]


def test_an_engine_that_was_stopped_while_idle_is_found_when_a_request_comes(server: Server) -> None:
    request = body(6, 8)
    calm = asyncio.run(stream(server.url, request))
    before, (engine,) = wedged(server), server.pids("engine")
    (page,) = folder_of(server).glob("engine-*.pulse")
    pulse = EnginePulse(page, read_only=True)
    wait_until(lambda: not pulse.busy)  # it has said its last token, but may not yet have found that it was the last
    pulse.close()
    os.kill(engine, signal.SIGSTOP)
    time.sleep(1.5 * PATIENCE)
    assert server.pids("engine") == [engine] and wedged(server) == before  # nobody misses it yet
    assert same(asyncio.run(stream(server.url, request)), calm)
    assert wedged(server) == before + 1


def test_the_supervisors_own_absence_does_not_count(server: Server, undisturbed: dict[str, Any]) -> None:
    before, (engine,) = wedged(server), server.pids("engine")

    async def both_stop() -> dict[str, Any]:
        """The engine too, as when a laptop sleeps; it is back no sooner than the supervisor."""
        said = asyncio.Event()
        task = asyncio.create_task(stream(server.url, LONG, on_chunk=said.set))
        await said.wait()
        os.kill(engine, signal.SIGSTOP)
        os.kill(server.process.pid, signal.SIGSTOP)
        await asyncio.sleep(2 * PATIENCE)
        os.kill(server.process.pid, signal.SIGCONT)
        await asyncio.sleep(PATIENCE / 8)
        os.kill(engine, signal.SIGCONT)
        return await task

    assert same(asyncio.run(both_stop()), undisturbed)
    assert wedged(server) == before and server.pids("engine") == [engine]


def test_a_front_that_stands_still_is_no_fault_of_the_engine(server: Server, undisturbed: dict[str, Any]) -> None:
    before, (engine,), (front,) = wedged(server), server.pids("engine"), server.pids("front")
    folded, _ = asyncio.run(paused(server, front, 2 * PATIENCE, LONG))
    assert same(folded, undisturbed)
    assert wedged(server) == before and server.pids("engine") == [engine] and server.pids("front") == [front]


def test_a_long_prefill_is_no_stall(server: Server) -> None:
    """Its steps together take far longer than the patience; each of them is shorter."""
    before, began = wedged(server), time.monotonic()
    prompt = [SLOW, *(i % 250 for i in range(2800))]
    answer = server.post("/v1/completions", model="default", prompt=prompt, max_tokens=1, ignore_eos=True)
    assert answer.status_code == 200, answer.text
    assert wedged(server) == before
    assert time.monotonic() - began > PATIENCE


def grammar_builders(engine: int) -> list[int]:
    found = [p.read_text().split() for p in Path(f"/proc/{engine}/task").glob("*/children")]
    return [int(pid) for each in found for pid in each]


def test_waiting_for_a_grammar_is_no_stall(server: Server) -> None:
    """The process that tries it stands still, longer than an engine may."""
    before, (engine,) = wedged(server), server.pids("engine")
    first = {"response_format": {"type": "json_object"}, "max_tokens": 3}
    assert server.post("/v1/completions", model="default", prompt="x", **first).status_code == 200
    (builder,) = grammar_builders(engine)

    async def slow() -> httpx.Response:
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
            os.kill(builder, signal.SIGSTOP)
            wish = {"model": "default", "prompt": "y", "max_tokens": 5, "regex": "[ab]+c?d"}
            task = asyncio.create_task(client.post(f"{server.url}/v1/completions", json=wish))
            await asyncio.sleep(1.5 * PATIENCE)
            assert not task.done()
            os.kill(builder, signal.SIGCONT)
            return await task

    assert asyncio.run(slow()).status_code == 200
    assert wedged(server) == before and server.pids("engine") == [engine]
