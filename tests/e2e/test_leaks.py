"""A real server under storms of clients that leave: what it says of itself afterwards, and what the system says of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.e2e.kit import Server, serving, stream
from tests.e2e.test_supervisor import wait_until

GUESTS = 300
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


def held(pid: int) -> dict[str, int]:
    """Open files, threads and resident KiB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(fields["Threads"]),
        "memory": int(fields["VmRSS"].split()[0]),
    }


async def guest(client: httpx.AsyncClient, url: str, dice: Random) -> None:
    """One request that may be left at any moment."""
    text = "".join(dice.choice("abcdefg ") for _ in range(dice.choice([3, 40, 400])))
    most, streams = dice.choice([1, 8, 60]), dice.random() < 0.6
    messages = [{"role": "user", "content": text}]
    bound = {"response_format": SCHEMA} if dice.random() < 0.15 else {}
    bound = {"regex": f"a{{{dice.randint(1, 9)},20}}"} if not bound and dice.random() < 0.1 else bound
    path, body = dice.choice(
        [
            ("/v1/chat/completions", {"messages": messages, "max_tokens": most, "n": dice.choice([1, 1, 3]), **bound}),
            ("/v1/completions", {"prompt": [text, text[:2]], "max_tokens": most, "logprobs": dice.choice([None, 2])}),
            ("/generate", {"text": text, "sampling_params": {"max_new_tokens": most}}),
            ("/v1/responses", {"input": text, "max_output_tokens": max(most, 16), "store": False}),
            ("/v1/messages", {"model": "default", "max_tokens": most, "messages": messages}),
        ]
    )
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(dice.choice([0.001, 0.02, 0.1, 0.5, 60])):
            answer = await client.post(f"{url}{path}", json={**body, "stream": streams})
            assert answer.status_code in (200, 400), answer.text


async def storm(url: str, dice: Random) -> None:
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
    async with httpx.AsyncClient(timeout=120, trust_env=False, limits=limits) as client:
        await asyncio.gather(*(guest(client, url, dice) for _ in range(GUESTS)))


def settle(server: Server) -> dict[str, Any]:
    """The engine's counters once nothing runs any more."""
    deadline = time.monotonic() + 60
    while True:
        info = server.get("/server_info").json()
        state = info["internal_states"][0] if info["internal_states"] else {}
        if state and not info["requests"] and not state["live"] and state["conserved"] is not None:
            return state
        assert time.monotonic() < deadline, info
        time.sleep(0.05)


def test_after_storms_of_clients_that_leave_nothing_is_held(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, "--load-format", "dummy", "--max-total-tokens", "16384", folder=tmp_path) as server:
        (front,), (engine,) = server.pids("front"), server.pids("engine")
        server.get("/server_info")  # over the connection that we keep
        calm = held(front)["files"]
        found = []
        for round in range(5):
            asyncio.run(storm(server.url, Random(round)))
            gc.collect()  # of what clients have dropped, some close their connections only now
            state = settle(server)
            assert state["conserved"] is True and state["leases"] == 0 and state["running"] == state["waiting"] == 0
            assert state["pages_free"] + state["pages_evictable"] == state["pages_total"]
            assert state.get("building", 0) == 0
            wait_until(lambda: held(front)["files"] <= calm + 2)  # what has just been closed is yet to be let go of
            found.append((held(front), held(engine)))
        assert server.pids("engine") == [engine] and server.pids("front") == [front]
        for first, last in zip(found[1], found[4], strict=True):
            assert last["files"] <= first["files"] + 2 and last["threads"] <= first["threads"] + 1, found
            assert last["memory"] < 1.05 * first["memory"] + 2048, found
        assert "Traceback" not in server.log.read_text()


def test_health_while_an_engine_is_stopped(tiny: Path, tmp_path: Path) -> None:
    """Stopped with work in flight: seen within the stall timeout, told with a reason, recovered, nothing lost."""
    with serving(tiny, "--load-format", "dummy", "--stall-timeout", "1", folder=tmp_path) as server:
        (engine,) = server.pids("engine")
        body = {"prompt": "a long way", "max_tokens": 900, "ignore_eos": True, "seed": 1}
        whole = asyncio.run(stream(server.url, body))

        async def stopped() -> tuple[dict[str, Any], float, list[dict[str, Any]]]:
            begun = asyncio.Event()
            task = asyncio.create_task(stream(server.url, body, on_chunk=begun.set))
            await begun.wait()
            os.kill(engine, signal.SIGSTOP)
            at, told = time.monotonic(), []
            async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
                while (answer := await client.get(f"{server.url}/ready")).status_code == 200:
                    assert time.monotonic() < at + 60
                    await asyncio.sleep(0.01)
                seen = time.monotonic() - at
                told.append(answer.json())
                assert (await client.get(f"{server.url}/live")).status_code == 200
                while (answer := await client.get(f"{server.url}/ready")).status_code != 200:
                    assert time.monotonic() < at + 120
                    told.append(answer.json())
                    await asyncio.sleep(0.01)
                told.append(answer.json())
            return await task, seen, told

        folded, seen, told = asyncio.run(stopped())
        assert folded["text"] == whole["text"] and folded["finish"] == {0: "length"}
        assert 0.5 < seen < 20
        assert "no progress for 1 s" in server.log.read_text(), "it was another patience"
        assert (
            told[0]["state"] in ("stalled", "restarting")
            and told[0]["reason"]
            and told[0]["error"]["code"] == "not_ready"
        )
        assert told[-1]["incarnation"] == 2
        assert told[-1]["ready"] and told[-1]["state"] == "ready"
