"""Health is told truthfully, from what can be seen without asking the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixmill.core.config import Config
from radixmill.front.api import health
from radixmill.front.api.app import create_app
from radixmill.front.session import EngineView, Front
from radixmill.observe.pulse import EnginePulse
from tests.fakes import EchoClient
from tests.front.kit import call, install, make_app, make_front

FACTS = {
    "ready",
    "reason",
    "state",
    "last_step_age",
    "running",
    "waiting",
    "waiting_tokens",
    "live",
    "incarnation",
}
PATIENCE = 0.4


class Seen:
    """A front whose engine's page is ours to write."""

    def __init__(self, folder: Path) -> None:
        self.page = EnginePulse(folder / "page")
        self.client = EchoClient()
        self.front = Front(Config())
        install(self.front, self.client)
        self.front.view = EngineView(PATIENCE, lambda: self.client.health().state == "ready")
        self.front.view.point(str(folder / "page"))
        self.app = create_app(self.front)

    async def get(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as http:
            return await http.get(path)

    async def seen_by_itself(self) -> None:
        """Until the front has seen a stall. It isn't asked: then it would look, whether or not it does by itself."""
        async with asyncio.timeout(20):
            while not self.front.view._stalled:
                await asyncio.sleep(0.01)

    async def until(self, status: int, *, every: Callable[[], Any] = lambda: None) -> float:
        """Seconds until /ready says so."""
        began = time.monotonic()
        while (await self.get("/ready")).status_code != status:
            assert time.monotonic() < began + 20
            every()
            await asyncio.sleep(0.01)
        return time.monotonic() - began


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path)


def test_live_says_yes_while_nothing_else_is_there():
    live = call(create_app(Front(Config())), "GET", "/live")
    assert (live.status_code, live.json()) == (200, {"alive": True})


@pytest.mark.parametrize("path", ["/ready", "/health"])
def test_the_facts_are_there_in_both_cases(path):
    good = call(make_app(), "GET", path)
    assert good.status_code == 200 and set(good.json()) == FACTS
    assert good.json() | {"incarnation": 1} == {
        "ready": True,
        "reason": "",
        "state": "ready",
        "last_step_age": None,
        "running": None,
        "waiting": None,
        "waiting_tokens": None,
        "live": 0,
        "incarnation": 1,
    }
    bad = call(make_app(EchoClient(state="restarting")), "GET", path)
    body = bad.json()
    assert bad.status_code == 503 and set(body) == FACTS | {"error"} and bad.headers["retry-after"] == "1"
    assert body["error"] == {
        "message": body["reason"],
        "type": "server_error",
        "param": None,
        "code": "not_ready",
    }
    assert not body["ready"] and body["reason"] and body["state"] == "restarting"


@pytest.mark.parametrize(
    "state, retry", [("loading", "1"), ("restarting", "1"), ("draining", "5"), ("failed", None), ("ready", None)]
)
def test_what_each_state_is_called(state, retry):
    answer = call(make_app(EchoClient(state=state)), "GET", "/ready")
    assert (answer.json()["state"], answer.headers.get("retry-after")) == (state, retry)


def test_draining_and_loading_are_the_fronts_own():
    app, front = make_front()
    front.draining = True
    assert call(app, "GET", "/ready").json()["state"] == "draining"
    assert call(create_app(Front(Config())), "GET", "/ready").json()["state"] == "loading"


def test_load_is_read_from_the_engines_page(seen):
    seen.page.load(busy=True, running=3, waiting=4, waiting_tokens=5000)
    seen.page.landed(0)
    body = call(seen.app, "GET", "/ready").json()
    assert (body["running"], body["waiting"], body["waiting_tokens"]) == (3, 4, 5000)
    assert 0 <= body["last_step_age"] < 10


def test_a_page_that_is_gone_is_no_reason(tmp_path, caplog):
    app, front = make_front()
    front.view = EngineView(PATIENCE, lambda: True)
    for path in (tmp_path / "none", tmp_path):
        front.view.point(str(path))
        body = call(app, "GET", "/ready").json()
        assert body["ready"] and body["running"] is None and body["last_step_age"] is None
    (tmp_path / "short").write_bytes(b"x")
    front.view.point(str(tmp_path / "short"))
    told = [each.getMessage() for each in caplog.records if "cannot be seen" in each.getMessage()]
    assert len(told) == 1, "once, and not of a page that is gone"
    assert call(app, "GET", "/ready").json()["running"] is None
    assert not (tmp_path / "none").exists()


def test_the_page_is_only_read(tmp_path):
    EnginePulse(tmp_path / "page").load(busy=True, running=1, waiting=0)
    reader = EnginePulse(tmp_path / "page", read_only=True)
    with pytest.raises(TypeError, match="read-only"):
        reader.load(busy=False, running=0, waiting=0)
    assert reader.busy


def test_a_stall_is_seen_in_time_and_forgotten_when_it_is_over(seen):
    """Whether or not anyone asks meanwhile: the front looks by itself while it waits for something."""

    async def story() -> None:
        assert (await seen.get("/ready")).status_code == 200
        seen.page.load(busy=True, running=1, waiting=0)
        seen.front.view.asked(1)
        await seen.seen_by_itself()
        answer = await seen.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["state"] == "stalled" and answer.headers["retry-after"]
        assert (await seen.get("/v1/models")).status_code == 503
        assert seen.front.ready_session() is seen.front.session, "requests are taken; they wait"
        seen.page.beat()
        assert (await seen.get("/ready")).status_code == 200
        seen.page.load(busy=False, running=0, waiting=0)
        seen.front.view.asked(0)

    asyncio.run(story())


def test_no_stall_before_the_patience(seen):
    async def story() -> None:
        seen.page.load(busy=True, running=1, waiting=0)
        seen.front.view.asked(1)
        assert await seen.until(503) >= PATIENCE * 0.9

    asyncio.run(story())


def test_an_engine_that_has_not_even_heard_of_the_work_stalls_too(seen):
    """Stopped while it was idle, it can't write that it is busy."""

    async def story() -> None:
        seen.front.view.asked(1)
        await seen.until(503)

    asyncio.run(story())


def test_others_work_is_watched_once_someone_has_asked(seen):
    async def story() -> None:
        seen.page.load(busy=True, running=1, waiting=0)
        assert (await seen.get("/ready")).status_code == 200
        await seen.seen_by_itself()
        assert (await seen.get("/ready")).status_code == 503

    asyncio.run(story())


def test_a_long_prefill_is_no_stall_and_an_idle_server_is_well(seen):
    """Beats without a step, for longer than the patience; then nothing at all."""

    async def story() -> None:
        seen.page.load(busy=True, running=1, waiting=0)
        seen.front.view.asked(1)
        until = time.monotonic() + 3 * PATIENCE
        while time.monotonic() < until:
            seen.page.beat()
            assert (await seen.get("/ready")).status_code == 200
            await asyncio.sleep(PATIENCE / 20)
        seen.page.landed(0)
        seen.page.load(busy=False, running=0, waiting=0)
        seen.front.view.asked(0)
        await asyncio.sleep(2 * PATIENCE)
        body = (await seen.get("/ready")).json()
        assert body["ready"] and body["last_step_age"] >= 2 * PATIENCE * 0.9

    asyncio.run(story())


def test_a_front_that_slept_blames_nobody(seen):
    async def story() -> None:
        seen.page.load(busy=True, running=1, waiting=0)
        seen.front.view.asked(1)
        await asyncio.sleep(PATIENCE / 10)
        time.sleep(3 * PATIENCE)  # the loop does not run
        assert (await seen.get("/ready")).status_code == 200
        seen.page.load(busy=False, running=0, waiting=0)
        seen.front.view.asked(0)

    asyncio.run(story())


def test_an_idle_front_has_no_timer(seen):
    async def story() -> None:
        seen.front.view.asked(2)
        assert seen.front.view._timer is not None
        seen.front.view.asked(0)
        while seen.front.view._timer is not None:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(story(), 20))


def test_another_incarnation_starts_afresh(seen, tmp_path):
    async def story() -> None:
        seen.page.load(busy=True, running=1, waiting=0)
        seen.front.view.asked(1)
        await seen.until(503)
        seen.client.state = "restarting"
        next_page = EnginePulse(tmp_path / "next")
        seen.front.view.point(str(tmp_path / "next"))
        await asyncio.sleep(2 * PATIENCE)  # it loads
        assert (await seen.get("/ready")).json()["state"] == "restarting"
        seen.client.state = "ready"
        assert (await seen.get("/ready")).status_code == 200
        next_page.beat()
        seen.front.view.asked(0)

    asyncio.run(story())


def test_health_generate_ends_with_its_client():
    """The probe is cancelled; nothing waits for an engine that does not answer."""
    client = EchoClient(pause=60)
    app, front = make_front(client)

    async def story() -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None: ...

        scope = {"type": "http", "method": "GET", "path": "/health_generate", "headers": [], "query_string": b""}
        task = asyncio.create_task(app(scope, receive, send))
        while not client.live:
            await asyncio.sleep(0.001)
        gone.set()
        await task

    asyncio.run(asyncio.wait_for(story(), 20))
    assert not client.live and front.session and front.session.live == 0


def test_health_generate_has_room_in_a_full_house_and_goes_before_all_others():
    client = EchoClient()
    assert call(make_app(client, max_requests=0), "GET", "/health_generate").status_code == 200
    (probe,) = client.requests
    assert probe.priority == 2**31 - 1


@pytest.mark.parametrize("stalled", [False, True])
def test_a_probe_that_takes_too_long_says_that_the_server_is_not_ready(seen, monkeypatch, stalled):
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.2)
    seen.client.pause = 60

    async def story() -> None:
        if stalled:
            seen.page.load(busy=True, running=1, waiting=0)
            seen.front.view.asked(1)
            await seen.until(503)
        answer = await seen.get("/health_generate")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")
        assert ("no progress" if stalled else "No token came") in error["message"]
        seen.front.view.asked(0)

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/ready", "/health"])
@pytest.mark.parametrize("state", ["ready", "restarting"])
def test_who_has_no_key_hears_nothing_of_others_load(path, state):
    app = make_app(EchoClient(state=state), api_key=("ann",), admin_api_key=("root",))
    for headers in ({}, {"x-api-key": "wrong"}):
        told = call(app, "GET", path, headers=headers).json()
        told.pop("error", None)
        assert set(told) == {"ready", "reason", "state"} and told["state"] == state
    for key in ("ann", "root"):
        assert set(call(app, "GET", path, headers={"x-api-key": key}).json()) >= FACTS
