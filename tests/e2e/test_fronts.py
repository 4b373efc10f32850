"""Two fronts before one engine: the death of one costs its own connections, that of the engine nobody anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.kit import Server, folder_of, same, serving, stream
from tests.e2e.test_recovery import body
from tests.e2e.test_supervisor import wait_until


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fronts")
    with serving(tiny, "--load-format", "dummy", "--fronts", "2", folder=folder) as started:
        ready = [httpx.get(f"{started.url}/ready", trust_env=False).status_code for _ in range(16)]  # of both fronts
        assert ready == [200] * 16 and started.log.read_text().count("ready to roll") == 1
        yield started


BODIES = [body(seed, 500 + 10 * seed) for seed in range(12)]


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> list[dict[str, Any]]:
    async def calm() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(stream(server.url, each) for each in BODIES)))

    return asyncio.run(calm())


async def killed(server: Server, pid: int) -> list[dict[str, Any] | BaseException]:
    """All streams, of which those of a front break off when it is killed."""
    started = [asyncio.Event() for _ in BODIES]
    tasks = [
        asyncio.create_task(stream(server.url, each, on_chunk=event.set))
        for each, event in zip(BODIES, started, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in started))
    os.kill(pid, signal.SIGKILL)
    return list(await asyncio.gather(*tasks, return_exceptions=True))


def test_a_front_takes_only_its_own_connections_along(server: Server, undisturbed: list[dict[str, Any]]) -> None:
    (engine,), fronts = server.pids("engine"), server.pids("front")
    assert len(fronts) == 2
    for deaths in range(1, 6):  # until both have some
        ended = asyncio.run(killed(server, server.pids("front")[0]))
        broken = [each for each in ended if isinstance(each, BaseException)]
        for one, two in zip(ended, undisturbed, strict=True):
            assert isinstance(one, httpx.TransportError) or (isinstance(one, dict) and same(one, two)), one
        wait_until(lambda deaths=deaths: server.log.read_text().count("ready to roll") == 1 + deaths)
        if 0 < len(broken) < len(BODIES):
            break
    else:
        pytest.fail("one front had all connections, five times")
    assert server.pids("engine") == [engine]
    wait_until(lambda: idle(server))  # the engine has cancelled what the dead one had asked


def idle(server: Server) -> bool:
    (stats,) = server.get("/server_info").json()["internal_states"]
    return bool(stats["running"] == stats["waiting"] == 0)


def test_an_engines_death_is_not_noticed_by_either(server: Server, undisturbed: list[dict[str, Any]]) -> None:
    (engine,) = server.pids("engine")
    ended = asyncio.run(killed(server, engine))
    for one, two in zip(ended, undisturbed, strict=True):
        assert isinstance(one, dict) and same(one, two)
    assert server.pids("engine") != [engine]


IMPATIENT = """
import sys
from radixmill.__main__ import main
from radixmill.supervise import fronts
fronts.PATIENT, fronts.PATIENT_LOW = 1, 3.0
sys.exit(main())
"""


def test_a_front_that_stands_still_is_replaced(tiny: Path, tmp_path: Path) -> None:
    """It takes its own connections along, as one that dies; the engine and the other front go on."""
    flags = ("--load-format", "dummy", "--fronts", "2", "--stall-timeout", "3")
    with serving(tiny, *flags, folder=tmp_path, command=(sys.executable, "-c", IMPATIENT, "serve")) as server:
        calm = asyncio.run(stream(server.url, BODIES[0]))
        engine, (hung, other) = server.pids("engine"), server.pids("front")

        async def through() -> list[dict[str, Any] | BaseException]:
            started = [asyncio.Event() for _ in range(8)]
            tasks = [asyncio.create_task(stream(server.url, BODIES[0], on_chunk=event.set)) for event in started]
            await asyncio.gather(*(event.wait() for event in started))
            os.kill(hung, signal.SIGSTOP)
            try:
                async with asyncio.timeout(60):
                    ended = list(await asyncio.gather(*tasks, return_exceptions=True))
                    # All of them may have been the other's, or at their end: it stands still until it is found so.
                    while hung in server.pids("front"):
                        await asyncio.sleep(0.02)
                    return ended
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(hung, signal.SIGCONT)

        for one in asyncio.run(through()):
            assert isinstance(one, httpx.TransportError) or (isinstance(one, dict) and same(one, calm)), one
        wait_until(lambda: hung not in server.pids("front") and len(server.pids("front")) == 2)
        assert re.search(r"front \d is wedged \(no progress for 3 s\)", server.log.read_text())
        assert server.pids("engine") == engine and other in server.pids("front")
        wait_until(lambda: server.log.read_text().count("ready to roll") == 2)
        assert [httpx.get(f"{server.url}/ready", trust_env=False).status_code for _ in range(8)] == [200] * 8


def children(pid: int) -> dict[int, str]:
    """Its children and the state of each."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            with contextlib.suppress(OSError):
                found[int(child)] = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return found


def test_a_crash_loop_ends_in_the_truth(tiny: Path, tmp_path: Path) -> None:
    """Five deaths in a row without a token: everything says 503, no zombie is left, and nothing when the server ends."""
    flags = ("--load-format", "dummy", "--fronts", "2")
    with serving(tiny, *flags, folder=tmp_path) as server:
        own = folder_of(server)
        assert asyncio.run(stream(server.url, body(1, 4)))["finish"] == {0: "length"}

        async def doomed() -> httpx.Response:
            async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
                wish = {"model": "default", "prompt": "x", "max_tokens": 3000, "ignore_eos": True}
                task = asyncio.create_task(client.post(f"{server.url}/v1/completions", json=wish))
                while "in a row" not in server.log.read_text():
                    server.kill()  # again and again, as soon as there is one
                    await asyncio.sleep(0.01)
                return await task

        answer = asyncio.run(doomed())
        assert answer.status_code == 503 and "in a row" in answer.json()["error"]["message"]
        wait_until(lambda: server.get("/ready").status_code == 503)
        for _ in range(8):  # of both fronts
            assert "in a row" in httpx.get(f"{server.url}/ready", trust_env=False).text
            answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"}, trust_env=False)
            assert answer.status_code == 503 and "in a row" in answer.text
        states = children(server.process.pid)
        assert len(states) == 2 and "Z" not in states.values()
        assert server.process.poll() is None and own.is_dir()
        assert not list(own.glob("engine-*"))  # nothing of the dead
        with httpx.Client(
            timeout=60, trust_env=False
        ) as client:  # what to do about it: another model, or the same anew
            assert client.post(f"{server.url}/admin/reload", json={}).status_code == 200
        assert asyncio.run(stream(server.url, body(1, 4)))["finish"] == {0: "length"}
        assert server.stop() == 0 and not own.exists()


def test_no_dead_child_stays_unburied(server: Server) -> None:
    for _ in range(3):
        before = server.pids("engine")
        server.kill()
        wait_until(lambda before=before: server.pids("engine") not in ([], before))
        assert asyncio.run(stream(server.url, body(1, 4)))["finish"] == {0: "length"}
    deadline = time.monotonic() + 60
    while "Z" in children(server.process.pid).values() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "Z" not in children(server.process.pid).values()
