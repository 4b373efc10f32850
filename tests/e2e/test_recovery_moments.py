"""Engines that die or stand still at awkward moments: in a long prefill, while a grammar is tried, while they come up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from radixmill.supervise.deployment import STARTING_LOW
from tests.e2e.faults import SLOW, faulty
from tests.e2e.kit import Server, same, serving, stream
from tests.e2e.test_recovery import body
from tests.e2e.test_stall import grammar_builders


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("moments")
    flags = ["--load-format", "dummy", "--stall-timeout", "2.5", "--step-tokens", "64"]
    with serving(tiny, *flags, folder=folder, environment=faulty(folder, seconds=0.1)) as started:
        yield started


def disturbed(
    server: Server, request: dict[str, Any], fault: Callable[[], Awaitable[None]]
) -> tuple[dict[str, Any], float]:
    async def both() -> dict[str, Any]:
        task = asyncio.create_task(stream(server.url, request))
        await fault()
        return await task

    began = time.monotonic()
    return asyncio.run(both()), time.monotonic() - began


async def until(what: Callable[[], bool], patience: float = 60.0) -> None:
    async with asyncio.timeout(patience):
        while not what():
            await asyncio.sleep(0.005)


async def another(server: Server, than: int, patience: float = 60.0) -> int:
    """The next engine's process id, as soon as it has one."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [pid for pid in server.pids("engine") if pid != than]
        return bool(found)

    await until(there, patience)
    return found[0]


def takeovers(server: Server) -> int:
    return server.log.read_text().count("took over")


def test_in_the_middle_of_a_long_prefill(server: Server) -> None:
    request = {"prompt": [SLOW, *(i % 250 for i in range(900))], "max_tokens": 8, "seed": 3, "logprobs": 1}
    request["ignore_eos"] = True
    calm, whole = disturbed(server, request, lambda: asyncio.sleep(0))
    server.post("/flush_cache")

    async def kill_thrice() -> None:
        """From outside: that alone condemns nobody."""
        (engine,) = server.pids("engine")
        for _ in range(3):
            before = takeovers(server)
            await asyncio.sleep(min(whole / 3, 1.0))
            os.kill(engine, signal.SIGKILL)
            engine = await another(server, engine)
            await until(lambda before=before: takeovers(server) > before)  # type: ignore[misc]

    folded, took = disturbed(server, request, kill_thrice)
    assert same(folded, calm) and took > whole


def test_while_a_grammar_is_tried(server: Server) -> None:
    first = {"prompt": "x", "regex": "[ab]+", "max_tokens": 3, "logprobs": 1}
    asyncio.run(stream(server.url, first))
    request = {"prompt": "y", "regex": "[abc]{3,9}(d|e)+", "max_tokens": 12, "seed": 4, "logprobs": 1}
    (engine,) = server.pids("engine")
    (builder,) = grammar_builders(engine)

    async def kill() -> None:
        os.kill(builder, signal.SIGSTOP)
        await asyncio.sleep(0.5)
        os.kill(engine, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(builder, signal.SIGCONT)
        await another(server, engine)

    folded, _ = disturbed(server, request, kill)
    assert same(folded, asyncio.run(stream(server.url, request)))
    assert set(folded["text"][0]) <= set("abcde")


def test_while_an_engine_comes_up_and_right_after_it_has(server: Server) -> None:
    request = body(9, 400)
    calm, _ = disturbed(server, request, lambda: asyncio.sleep(0))

    async def kill() -> None:
        (engine,) = server.pids("engine")
        await asyncio.sleep(0.1)
        os.kill(engine, signal.SIGKILL)
        engine = await another(server, engine)
        await asyncio.sleep(0.2)  # it loads
        os.kill(engine, signal.SIGKILL)
        before = takeovers(server)
        engine = await another(server, engine)
        await until(lambda: takeovers(server) > before)
        os.kill(engine, signal.SIGKILL)  # it has just been told what there is to do
        await another(server, engine)

    folded, _ = disturbed(server, request, kill)
    assert same(folded, calm)


@pytest.mark.slow
def test_an_engine_that_hangs_while_it_comes_up_is_replaced(server: Server) -> None:
    request = body(2, 300)
    calm, _ = disturbed(server, request, lambda: asyncio.sleep(0))

    async def stop() -> None:
        (engine,) = server.pids("engine")
        os.kill(engine, signal.SIGKILL)
        engine = await another(server, engine)
        os.kill(engine, signal.SIGSTOP)
        await another(server, engine, 2 * STARTING_LOW)

    folded, _ = disturbed(server, request, stop)
    assert same(folded, calm) and f"no progress for {STARTING_LOW:g} s" in server.log.read_text()
