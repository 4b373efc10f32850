"""SIGTERM: what runs finishes or ends explicitly, nothing new is taken, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.kit import Server, same, serving, stream
from tests.e2e.test_supervisor import gone, wait_until

LONG = {"prompt": "a long way", "max_tokens": 3900, "ignore_eos": True, "seed": 1}
MESSAGES = [{"role": "user", "content": "a long way"}]
ENDLESS = {"ignore_eos": True}  # to their last token: each has to run when the others do
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a long way", "max_tokens": 3900, **ENDLESS},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 3900, **ENDLESS},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 3900, **ENDLESS},
    "/v1/responses": {"input": "a long way", "max_output_tokens": 3900, **ENDLESS},
    "/generate": {"text": "a long way", "sampling_params": {"max_new_tokens": 3900, **ENDLESS}},
}
DUMMY = ("--load-format", "dummy", "--max-total-tokens", "65536")


@pytest.fixture
def room() -> Iterator[Path]:
    """Where the server may make its private folder; a short path, because sockets have their names in it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="rm") as name:
        yield Path(name)
        assert not os.listdir(name), "something was left behind"


def within(room: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(room)}


async def raw_stream(client: httpx.AsyncClient, server: Server, route: str, begun: asyncio.Event) -> list[str]:
    """The events of a stream; an error of the connection is one of the test."""
    body = {"model": "default", "stream": True, "seed": 1, **STREAMS[route]}
    async with client.stream("POST", f"{server.url}{route}", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        text = ""
        async for part in answer.aiter_text():
            text += part
            if text.count("\n\n") > 4:
                begun.set()
    return [event for event in text.split("\n\n") if event]


def ended_explicitly(route: str, events: list[str]) -> bool:
    last = events[-1]
    if route == "/v1/messages":
        return last.startswith("event: error\n") and "shutting down" in last
    if route == "/v1/responses":
        return last.startswith("event: response.failed\n") and "shutting down" in last
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    return last == "data: [DONE]" and error["code"] == "shutting_down"


async def ended_by(server: Server, signals: int) -> tuple[dict[str, list[str]], httpx.Response]:
    """What streams of every API and one whole answer come to, when so many signals are sent."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        begun = {route: asyncio.Event() for route in STREAMS}
        live = {route: asyncio.create_task(raw_stream(client, server, route, event)) for route, event in begun.items()}
        whole = asyncio.create_task(client.post(f"{server.url}/v1/completions", json={"model": "default", **LONG}))
        await asyncio.gather(*(event.wait() for event in begun.values()))
        while not whole.done():  # it has no first event to wait for
            states = (await client.get(f"{server.url}/server_info")).json()["internal_states"]
            if states and states[0]["running"] == len(STREAMS) + 1:  # none from an engine that is late
                break
            await asyncio.sleep(0.01)
        for nth in range(signals):
            server.process.send_signal(signal.SIGTERM)
            while not nth and "finishing live requests" not in server.log.read_text():
                await asyncio.sleep(0.01)
        return {route: await task for route, task in live.items()}, await whole


@pytest.mark.parametrize("fronts", ["1", "2"])
@pytest.mark.parametrize(("timeout", "signals"), [("0.3", 1), ("300", 2)], ids=["timeout", "second signal"])
def test_what_is_left_ends_explicitly_in_every_api(
    tiny: Path, tmp_path: Path, room: Path, fronts: str, timeout: str, signals: int
) -> None:
    with serving(
        tiny, *DUMMY, "--drain-timeout", timeout, "--fronts", fronts, folder=tmp_path, environment=within(room)
    ) as server:
        wait_until(lambda: len(server.pids("front")) == int(fronts))
        pids = [*server.pids("engine"), *server.pids("front")]
        streams, whole = asyncio.run(ended_by(server, signals))
        assert server.process.wait(60) == 0
    assert {route: ended_explicitly(route, events) for route, events in streams.items()} == dict.fromkeys(STREAMS, True)
    assert whole.status_code == 503 and whole.headers["Retry-After"]
    assert whole.json()["error"]["code"] == "shutting_down"
    assert all(map(gone, pids))


def test_engines_that_die_while_the_server_drains_are_replaced(tiny: Path, tmp_path: Path, room: Path) -> None:
    """Both before and after the signal; what runs finishes with the bytes of an undisturbed run."""
    request = {**LONG, "max_tokens": 1500}
    with serving(tiny, *DUMMY, folder=tmp_path, environment=within(room)) as server:
        calm = asyncio.run(stream(server.url, request))

        async def story() -> dict[str, Any]:
            begun = asyncio.Event()
            live = asyncio.create_task(stream(server.url, request, on_chunk=begun.set))
            await begun.wait()
            (first,) = server.pids("engine")
            os.kill(first, signal.SIGKILL)
            server.process.send_signal(signal.SIGTERM)
            while not (found := [pid for pid in server.pids("engine") if pid != first]):
                await asyncio.sleep(0.005)
            os.kill(found[0], signal.SIGKILL)  # while it loads
            return await live

        assert same(asyncio.run(story()), calm)
        assert server.process.wait(60) == 0


def test_sigterm_while_the_model_loads(tiny: Path, tmp_path: Path, room: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "radixmill", "serve", str(tiny), *DUMMY, "--port", "0"]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink, env=within(room)) as process:
        server = Server(process, log)
        wait_until(lambda: server.pids("front") and server.pids("engine"))
        pids = [*server.pids("front"), *server.pids("engine")]
        os.kill(server.pids("engine")[0], signal.SIGSTOP)  # it would go on loading for ever
        process.terminate()
        began = time.monotonic()
        assert process.wait(25) == 0, log.read_text()
        assert time.monotonic() - began < 20
    assert "Traceback" not in log.read_text()
    assert all(map(gone, pids))
