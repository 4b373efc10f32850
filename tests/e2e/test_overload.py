"""Real servers under more than they can take: who is refused is told so, who is let in is served, and keys share fairly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.kit import Server, serving

TEXT = "/v1/completions"
FLOOD = 600


def body(text: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "default", "prompt": text, "max_tokens": tokens, "ignore_eos": True, "seed": 1, **more}


@asynccontextmanager
async def client(server: Server, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, limits=limits, timeout=300, trust_env=False
    ) as http:
        yield http


async def until(http: httpx.AsyncClient, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The engine's numbers, once they are so."""
    async with asyncio.timeout(60):
        while True:
            answer = await http.get("/server_info")
            assert answer.status_code == 200, answer.text
            if (states := answer.json()["internal_states"]) and holds(states[0]):
                return dict(states[0])
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def shared(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two keys, four slots."""
    flags = ("--load-format", "dummy", "--api-key", "one", "two", "--max-running-requests", "4")
    with serving(tiny, *flags, "--max-queued-requests", "600", folder=tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture(scope="module")
def single(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One slot, and little patience."""
    flags = ("--load-format", "dummy", "--max-running-requests", "1", "--max-queue-time", "0.5")
    with serving(tiny, *flags, "--max-queued-tokens", "100", folder=tmp_path_factory.mktemp("single")) as server:
        yield server


def test_a_flood_of_one_key_leaves_the_other_its_part(shared: Server) -> None:
    """600 requests of one key at once: some of them are refused, honestly; those of the other key never are, and each is
    answered while most of the flood still waits."""

    async def go() -> None:
        async with client(shared, "one") as one, client(shared, "two") as two:
            alone = [await timed(two, f"alone {i}") for i in range(3)]
            flood = [asyncio.create_task(one.post(TEXT, json=body(f"{i} flood", 24))) for i in range(FLOOD)]
            await until(two, lambda state: state["waiting"] > 300)
            crowded = [await timed(two, f"crowded {i}") for i in range(5)]
            done = sum(task.done() and task.result().status_code == 200 for task in flood)
            answers = await asyncio.gather(*flood)
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {answer.status_code for answer in refused} == {429}
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert 1 <= len(refused) <= 100, "about a ninth of the queue is kept for others"
        print(f"alone {max(alone):.2f} s, beside a flood {max(crowded):.2f} s, {done} of {FLOOD} done by then")
        assert done < FLOOD / 2
        whole = {answer.json()["choices"][0]["text"] for answer in answers if answer.status_code == 200}
        assert all(whole)

    async def timed(http: httpx.AsyncClient, text: str) -> float:
        began = time.monotonic()
        answer = await http.post(TEXT, json=body(text, 24))
        assert answer.status_code == 200, answer.text
        return time.monotonic() - began

    asyncio.run(go())


def test_higher_priorities_are_served_first(shared: Server) -> None:
    """One place is free at a time: whoever has got it leaves only when it has been seen to have it."""

    async def go() -> list[str]:
        order: list[str] = []
        leave = asyncio.Condition()
        gone = 0

        async def ask(name: str, priority: int, n: int = 1) -> None:
            async with http.stream("POST", TEXT, json=body(name, 3900, priority=priority, n=n, stream=True)) as answer:
                assert answer.status_code == 200, await answer.aread()
                lines = answer.aiter_lines()
                await anext(lines)
                if n > 1:  # to the end
                    await asyncio.Event().wait()
                order.append(name)
                async with leave:
                    place = len(order)
                    leave.notify_all()
                    await leave.wait_for(lambda: gone >= place)

        async with client(shared, "one") as http, asyncio.TaskGroup() as tasks:
            others = tasks.create_task(ask("others", 9, n=3))
            await until(http, lambda state: state["running"] == 3)
            tasks.create_task(ask("first", 9))
            await until(http, lambda state: state["running"] == 4)
            for name, priority in (("low", -1), ("usual", 0), ("high", 7)):
                for _ in range(2):
                    tasks.create_task(ask(name, priority))
            await until(http, lambda state: state["waiting"] == 6)
            async with leave, asyncio.timeout(60):
                for gone in range(7):
                    leave.notify_all()
                    await leave.wait_for(lambda gone=gone: len(order) > gone)
                state = await until(http, lambda state: True)
                assert state["running"] >= 3, "the others have ended: there was more than one place"
                gone = 7
                leave.notify_all()
            others.cancel()
        return order

    assert asyncio.run(go()) == ["first", "high", "high", "usual", "usual", "low", "low"]


def test_who_waits_too_long_is_told_when_to_come_back(single: Server) -> None:
    async def go() -> None:
        async with client(single) as http:
            # A second and more, on any machine: it is streamed until the other has been refused.
            async with http.stream("POST", TEXT, json=body("long", 4000, stream=True)) as long:
                lines = long.aiter_lines()
                await anext(lines)
                late = await http.post(TEXT, json=body("late", 8, n=2))
                assert late.status_code == 429 and "0.5 s" in late.text
                assert 1 <= int(late.headers["retry-after"]) <= 60
                assert (await anext(line async for line in lines if line)).startswith("data: {")
            state = await until(http, lambda state: state["running"] + state["waiting"] == 0)
            assert state["expired"] == 2 and state["expired_requests"] == 1 and not state["queued_tokens"]

    asyncio.run(go())


def test_tokens_that_wait_are_bounded(single: Server) -> None:
    async def refused(http: httpx.AsyncClient) -> httpx.Response | None:
        """What a third request is told while one runs and one waits; nothing where the second was told first to go."""
        much = None
        async with (
            asyncio.TaskGroup() as tasks,
            http.stream("POST", TEXT, json=body("long", 4000, stream=True)) as long,
        ):
            # Held: an iterator that is dropped closes its connection, which ends the request.
            lines = long.aiter_lines()
            await anext(lines)
            waits = tasks.create_task(http.post(TEXT, json=body("x" * 90, 1)))
            while not waits.done() and much is None:
                states = (await http.get("/server_info")).json()["internal_states"]  # none from an engine that is late
                if states and states[0]["queued_tokens"] == 90:
                    told = await http.post(TEXT, json=body("y" * 20, 1))
                    much = None if waits.done() else told
                await asyncio.sleep(0.01)
        assert waits.result().status_code in (200, 429), waits.result().text
        return much

    async def go() -> None:
        async with client(single) as http:
            for _ in range(20):  # a machine may stand still for longer than anyone may wait here
                if much := await refused(http):
                    break
            else:
                pytest.fail("none has waited long enough to be seen")
            assert much.status_code == 429 and "tokens" in much.text and much.headers["retry-after"]
            await until(http, lambda state: state["queued_tokens"] == 0)
            huge = await http.post(TEXT, json=body("z" * 1000, 1))
            assert huge.status_code == 200, "nobody else waits"

    asyncio.run(go())


def test_timeouts_stop_the_work(single: Server) -> None:
    async def go() -> None:
        async with client(single) as http:
            whole = await http.post(TEXT, json=body("whole", 4000, timeout=0.3))
            assert whole.status_code == 408 and whole.json()["error"]["code"] == "timeout"
            tried = 0
            for seconds in (0.3, 0.6, 1.2, 2.4):  # a machine may stand still for so long
                tried += 1
                part = await http.post(TEXT, json=body("part", 4000, timeout=seconds, stream=True))
                if part.status_code == 200 and part.text.count("data: ") > 2:
                    break
            assert part.status_code == 200 and '"code":"timeout"' in part.text and part.text.count("data: ") > 2
            state = await until(http, lambda state: state["running"] + state["waiting"] == 0)
            assert state["timed_out_requests"] == 1 + tried
            quick = await http.post(TEXT, json=body("quick", 4, timeout=60))
            assert quick.status_code == 200 and quick.json()["usage"]["completion_tokens"] == 4

    asyncio.run(go())
