"""Another model takes over while streams run: nobody notices but by what new requests get."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixmill.device.worker import free_bytes
from tests.e2e.kit import TINY, Server, folder_of, same, serving, stream, tiny_model
from tests.e2e.test_supervisor import gone, wait_until

LONG = {"prompt": "a long way", "max_tokens": 600, "ignore_eos": True, "seed": 1, "temperature": 0.8}
SHORT = {**LONG, "max_tokens": 12}
DUMMY = ("--load-format", "dummy", "--max-total-tokens", "16384")


def model_with(folder: Path, **changes: Any) -> Path:
    tiny_model(folder)
    (folder / "config.json").write_text(json.dumps({**TINY, **changes}))
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose random weights differ from those of `tiny`."""
    return model_with(tmp_path_factory.mktemp("models") / "other", rms_norm_eps=1e-4, rope_theta=5000.0)


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids=["one front", "two fronts"])
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    flags = (*DUMMY, "--fronts", str(request.param))
    with serving(tiny, *flags, folder=tmp_path_factory.mktemp("reload")) as started:
        wait_until(lambda: len(started.pids("front")) == request.param)
        yield started
        assert "Traceback" not in started.log.read_text()


@pytest.fixture(scope="module")
def expected(tiny: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[dict[str, Any]]]:
    """What LONG and SHORT give on each model, served alone."""
    found = {}
    for model in (tiny, other):
        with serving(model, *DUMMY, folder=tmp_path_factory.mktemp("alone")) as lone:
            found[model] = [asyncio.run(stream(lone.url, body)) for body in (LONG, SHORT)]
    assert not same(found[tiny][1], found[other][1])
    return found


def reload(server: Server, model: Path | None = None, **more: Any) -> httpx.Response:
    return server.post("/admin/reload", **({} if model is None else {"model": str(model)}), **more)


def served(server: Server) -> str:
    return str(server.get("/v1/models").json()["data"][0]["id"])


@contextmanager
def stopped_while_loading(server: Server, order: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """A reload whose engine stands still: its process id, and the answer to come."""
    (old,) = server.pids("engine")
    with ThreadPoolExecutor(1) as pool:
        client = httpx.Client(timeout=120, trust_env=False)
        answer = pool.submit(client.post, f"{server.url}/admin/reload", json=order)
        wait_until(lambda: set(server.pids("engine")) - {old} or answer.done())
        (new,) = set(server.pids("engine")) - {old}
        os.kill(new, signal.SIGSTOP)
        try:
            yield new, answer
        finally:
            with suppress(ProcessLookupError):
                os.kill(new, signal.SIGCONT)


async def running(server: Server, count: int = 4, body: dict[str, Any] = LONG) -> list[asyncio.Task[dict[str, Any]]]:
    """Streams that have begun."""
    started = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(stream(server.url, body, on_chunk=event.set)) for event in started]
    await asyncio.gather(*(event.wait() for event in started))
    return tasks


def test_live_streams_finish_on_the_old_model_and_new_requests_get_the_new(
    server: Server, tiny: Path, other: Path, expected: dict[Path, list[dict[str, Any]]]
) -> None:
    async def story() -> tuple[list[dict[str, Any]], dict[str, Any], httpx.Response, bool]:
        live = await running(server, 6)
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(f"{server.url}/admin/reload", json={"model": str(other)})
            beside = not all(task.done() for task in live)
            new = await stream(server.url, SHORT)
        return await asyncio.gather(*live), new, answer, beside

    for _ in range(5):  # until some still run when the other model has come up
        reload(server, tiny).raise_for_status()
        wait_until(lambda: len(server.pids("engine")) == 1)
        (engine,) = server.pids("engine")
        kept, new, answer, beside = asyncio.run(story())
        assert answer.status_code == 200, answer.text
        assert all(same(each, expected[tiny][0]) for each in kept)
        assert same(new, expected[other][1])
        if beside:
            break
    else:
        pytest.fail("all streams were over before the other model had come up, five times")
    told = answer.json()
    assert told["served"]["names"] == ["other"] and told["previous"]["names"] == [tiny.name]
    assert told["served"]["numerics"] != told["previous"]["numerics"] and told["seconds"] > 0
    wait_until(lambda: len(server.pids("engine")) == 1)
    assert server.pids("engine") != [engine] and gone(engine)
    for _ in range(4):  # whichever front answers
        with httpx.Client(trust_env=False) as client:
            assert [card["id"] for card in client.get(f"{server.url}/v1/models").json()["data"]] == ["other"]
            assert client.get(f"{server.url}/model_info").json()["model_path"] == str(other)
            assert client.get(f"{server.url}/server_info").json()["config"]["model"]["model"] == str(other)
    numbers = {path.name.split("-")[1].split(".")[0] for path in folder_of(server).glob("engine-*")}
    assert len(numbers) == 1, "the old engine's files have been removed"


def test_streams_outlive_two_reloads(server: Server, tiny: Path, other: Path) -> None:
    reload(server, tiny).raise_for_status()
    long = {**LONG, "max_tokens": 2500}

    async def story() -> list[dict[str, Any]]:
        live = await running(server, 3, long)
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            for model in (other, tiny):
                (await client.post(f"{server.url}/admin/reload", json={"model": str(model)})).raise_for_status()
        assert not all(task.done() for task in live)
        return await asyncio.gather(*live)

    kept = asyncio.run(story())
    wait_until(lambda: len(server.pids("engine")) == 1)
    alone = asyncio.run(stream(server.url, long))
    assert all(same(each, alone) for each in kept)
    assert "Traceback" not in server.log.read_text()


def test_fifty_in_flight_while_three_reloads_follow_one_another(
    server: Server, tiny: Path, other: Path, expected: dict[Path, list[dict[str, Any]]]
) -> None:
    reload(server, tiny).raise_for_status()
    both = [each[1] for each in expected.values()]

    async def worker(client: httpx.AsyncClient, over: asyncio.Event) -> int:
        done = 0
        while not over.is_set():
            if done % 2:
                folded = await stream(server.url, SHORT)
                assert any(same(folded, each) for each in both)
            else:
                answer = await client.post(f"{server.url}/v1/completions", json={"model": "default", **SHORT})
                assert answer.status_code == 200, answer.text
                assert answer.json()["choices"][0]["text"] in [each["text"][0] for each in both]
            done += 1
        return done

    async def story() -> int:
        over = asyncio.Event()
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(timeout=120, trust_env=False, limits=limits) as client:
            workers = [asyncio.create_task(worker(client, over)) for _ in range(50)]
            for model in (other, tiny, other):
                answer = await client.post(f"{server.url}/admin/reload", json={"model": str(model)})
                assert answer.status_code == 200, answer.text
            over.set()
            return sum(await asyncio.gather(*workers))

    assert asyncio.run(story()) >= 50
    assert served(server) == "other"


def test_a_kept_alive_connection_lives_on(server: Server, tiny: Path, other: Path) -> None:
    reload(server, tiny).raise_for_status()
    line = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    line.connect()
    sock = line.sock

    def name() -> str:
        line.request("GET", "/v1/models")
        return str(json.load(line.getresponse())["data"][0]["id"])

    assert name() == tiny.name
    reload(server, other).raise_for_status()
    assert name() == "other" and line.sock is sock
    line.close()


def test_engines_that_die_on_either_side_are_replaced(
    server: Server, tiny: Path, other: Path, expected: dict[Path, list[dict[str, Any]]]
) -> None:
    async def story() -> tuple[list[dict[str, Any]], bool]:
        (old,) = server.pids("engine")
        live = await running(server)
        loop = asyncio.get_running_loop()
        order = loop.run_in_executor(None, reload, server, other)
        while len(server.pids("engine")) < 2 and not order.done():
            await asyncio.sleep(0.002)
        loads = not order.done() and old in server.pids("engine")
        if loads:
            with suppress(ProcessLookupError):
                os.kill(old, signal.SIGKILL)  # while the new one loads
        (await order).raise_for_status()
        beside = loads and not all(task.done() for task in live)
        for pid in server.pids("engine"):  # the new one, and the old one's successor while it retires
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return await asyncio.gather(*live, stream(server.url, SHORT)), beside

    for _ in range(5):  # until some still run when the other model has come up
        reload(server, tiny).raise_for_status()
        wait_until(lambda: len(server.pids("engine")) == 1)
        (*kept, new), beside = asyncio.run(story())
        assert all(same(each, expected[tiny][0]) for each in kept) and same(new, expected[other][1])
        if beside:
            break
    else:
        pytest.fail("all streams were over before the other model had come up, five times")
    wait_until(lambda: len(server.pids("engine")) == 1)


def test_one_at_a_time_and_a_front_that_dies_meanwhile_comes_up_on_the_new_model(
    server: Server, tiny: Path, other: Path
) -> None:
    reload(server, tiny).raise_for_status()
    wait_until(lambda: len(server.pids("engine")) == 1)
    fronts = server.pids("front")
    with stopped_while_loading(server, {"model": str(other)}) as (_, answer):
        refused = httpx.post(f"{server.url}/admin/reload", json={"model": str(tiny)}, timeout=60, trust_env=False)
        assert refused.status_code == 409 and refused.json()["error"]["code"] == "reload_in_progress"
        assert served(server) == tiny.name
        os.kill(fronts[0], signal.SIGKILL)
        wait_until(lambda: len(server.pids("front")) == len(fronts) and fronts[0] not in server.pids("front"))
    with suppress(httpx.HTTPError):  # the front that died was the one that had the order
        assert answer.result(60).status_code == 200
    wait_until(lambda: names(server) == {"other"})
    server.kill("front")
    wait_until(lambda: len(server.pids("front")) == len(fronts) and names(server) == {"other"})


def names(server: Server) -> set[str]:
    """As fresh connections find them, so that every front is asked."""
    found = set()
    for _ in range(8):
        try:
            answer = httpx.get(f"{server.url}/v1/models", trust_env=False)
            found.add(answer.json()["data"][0]["id"] if answer.status_code == 200 else "")
        except httpx.HTTPError:
            found.add("")
    return found


def test_in_mode_drain_nothing_new_is_taken_until_the_new_model_serves(
    server: Server, tiny: Path, other: Path, expected: dict[Path, list[dict[str, Any]]]
) -> None:
    reload(server, tiny).raise_for_status()

    async def story() -> tuple[list[dict[str, Any]], set[int], httpx.Response]:
        seen: set[int] = set()
        most = 0
        live = await running(server)
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            order = asyncio.create_task(
                client.post(f"{server.url}/admin/reload", json={"model": str(other), "mode": "drain"})
            )
            while not order.done():
                most = max(most, len(server.pids("engine")))
                ready = await client.get(f"{server.url}/ready")
                asked = await client.post(f"{server.url}/v1/completions", json={"model": "default", **SHORT})
                if asked.status_code == 503:
                    assert asked.headers["Retry-After"]
                seen |= {ready.status_code, asked.status_code}
                await asyncio.sleep(0.01)
            assert most == 1, "one engine at a time"
            return await asyncio.gather(*live), seen, await order

    kept, seen, answer = asyncio.run(story())
    assert answer.status_code == 200, answer.text
    assert 503 in seen
    assert all(same(each, expected[tiny][0]) for each in kept)
    assert same(asyncio.run(stream(server.url, SHORT)), expected[other][1])


@pytest.mark.parametrize("mode", ["beside", "drain"])
def test_what_cannot_be_loaded_leaves_the_old_model_serving(
    server: Server, tiny: Path, tmp_path: Path, expected: dict[Path, list[dict[str, Any]]], mode: str
) -> None:
    reload(server, tiny).raise_for_status()
    wait_until(lambda: len(server.pids("engine")) == 1)
    broken = model_with(tmp_path / "broken", architectures=["BambooForCausalLM"])
    for model, words in ((tmp_path / "nowhere", "no such file"), (broken, "BambooForCausalLM")):
        refused = reload(server, model, mode=mode)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["param"] == "model" and words in refused.text
    assert same(asyncio.run(stream(server.url, SHORT)), expected[tiny][1])
    assert names(server) == {tiny.name} and len(server.pids("engine")) == 1
    assert reload(server, None, mode="sideways").json()["error"]["param"] == "mode"


def test_an_engine_that_dies_while_it_loads_fails_the_order_alone(server: Server, tiny: Path, other: Path) -> None:
    reload(server, tiny).raise_for_status()
    wait_until(lambda: len(server.pids("engine")) == 1)
    with stopped_while_loading(server, {"model": str(other)}) as (new, answer):
        os.kill(new, signal.SIGKILL)
        refused = answer.result(60)
    assert refused.status_code == 409 and "SIGKILL" in refused.text
    assert refused.json()["error"]["code"] == "engine_failed"
    assert names(server) == {tiny.name}
    assert server.post("/v1/completions", model="default", **SHORT).status_code == 200
    assert reload(server, other).status_code == 200


def test_after_a_failed_drain_the_old_model_is_started_again(
    server: Server, tiny: Path, other: Path, expected: dict[Path, list[dict[str, Any]]]
) -> None:
    reload(server, tiny).raise_for_status()
    wait_until(lambda: len(server.pids("engine")) == 1)
    with stopped_while_loading(server, {"model": str(other), "mode": "drain"}) as (new, answer):
        assert names(server) == {""} and len(server.pids("engine")) == 1
        os.kill(new, signal.SIGKILL)
        assert answer.result(60).status_code == 409
    wait_until(lambda: names(server) == {tiny.name})
    assert same(asyncio.run(stream(server.url, SHORT)), expected[tiny][1])


def test_caches_do_not_mix_and_kept_responses_stay(server: Server, tiny: Path) -> None:
    """Over one connection, so that one front answers: each keeps what it stored itself."""
    prompt = "a prefix that is long enough to be found again, " * 20
    limits = httpx.Limits(max_connections=1, keepalive_expiry=600)
    with httpx.Client(base_url=server.url, limits=limits, timeout=60, trust_env=False) as http:

        def post(route: str, **body: Any) -> Any:
            return http.post(route, json=body).raise_for_status().json()

        def cached() -> int:
            answer = post("/v1/completions", model="default", prompt=prompt, max_tokens=1)
            return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

        post("/admin/reload", model=str(tiny))
        kept = post("/v1/responses", model="default", input="hello", max_output_tokens=16)
        assert cached() == 0 and cached() > 0
        post("/admin/reload")
        assert cached() == 0 and cached() > 0
        assert http.get(f"/v1/responses/{kept['id']}").json() == kept
        post("/v1/responses", model="default", input="and", previous_response_id=kept["id"], max_output_tokens=16)


def test_sglangs_way_to_say_it(server: Server, tiny: Path, other: Path, tmp_path: Path) -> None:
    done = server.post("/update_weights_from_disk", model_path=str(other))
    assert done.status_code == 200 and done.json()["success"] and done.json()["num_paused_requests"] == 0
    assert served(server) == "other"
    failed = server.post("/update_weights_from_disk", model_path=str(tmp_path / "nowhere"))
    assert failed.status_code == 400 and not failed.json()["success"] and failed.json()["message"]


def test_what_does_not_fit_is_refused_with_the_numbers_before_it_is_loaded(
    server: Server, tiny: Path, tmp_path: Path
) -> None:
    reload(server, tiny).raise_for_status()
    huge = model_with(tmp_path / "huge", hidden_size=16384, intermediate_size=65536, num_hidden_layers=80)
    refused = reload(server, huge)
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "does_not_fit"
    needs, kv, _, free = (int(word) for word in refused.json()["error"]["message"].split() if word.isdigit())
    assert needs > 1_000_000 and kv > 0 and 0 < free < needs
    assert names(server) == {tiny.name}


def test_memory_that_the_old_engine_has_reserved_does_not_count_as_free(tiny: Path, tmp_path: Path) -> None:
    half = str(free_bytes() * 6 // 10)
    with serving(tiny, "--load-format", "dummy", "--kv-cache-bytes", half, folder=tmp_path) as server:
        refused = reload(server)
        assert refused.status_code == 409 and "MiB" in refused.json()["error"]["message"]
        assert reload(server, mode="drain").status_code == 200


def test_served_names_stay_where_they_were_given(tiny: Path, other: Path, tmp_path: Path) -> None:
    with serving(tiny, *DUMMY, "--served-model-name", "mine", "too", folder=tmp_path) as server:
        assert reload(server, other).json()["served"]["names"] == ["mine", "too"]
        assert server.get("/model_info").json()["model_path"] == str(other)


def test_a_drain_that_takes_too_long_ends_answers_explicitly(tiny: Path, other: Path, tmp_path: Path) -> None:
    with serving(tiny, *DUMMY, "--drain-timeout", "0.2", folder=tmp_path) as server:
        said = Said(server, {**LONG, "max_tokens": 4000})
        said.begun.wait(60)
        assert reload(server, other, mode="drain").status_code == 200
        said.join(60)
        *_, error, done = [line for line in said.lines if line]
        assert json.loads(error[6:])["error"]["code"] == "model_replaced" and done == "data: [DONE]"
        assert served(server) == "other"
        assert server.post("/v1/completions", model="default", **SHORT).status_code == 200


class Said(threading.Thread):
    """The lines of one stream."""

    def __init__(self, server: Server, body: dict[str, Any], route: str = "/v1/completions") -> None:
        super().__init__(daemon=True)
        self.server, self.body, self.route = server, body, route
        self.begun, self.lines, self.status = threading.Event(), list[str](), 0
        self.start()

    def run(self) -> None:
        body = {"model": "default", "stream": True, **self.body}
        with (
            httpx.Client(timeout=120, trust_env=False) as client,
            client.stream("POST", f"{self.server.url}{self.route}", json=body) as answer,
        ):
            self.status = answer.status_code
            for line in answer.iter_lines():
                self.lines.append(line)
                if sum("delta" in each or "text" in each for each in self.lines) > 3:
                    self.begun.set()
        self.begun.set()


def test_sigterm_during_a_reload_ends_everything(tiny: Path, other: Path, tmp_path: Path) -> None:
    for mode in ("beside", "drain"):
        with (
            tempfile.TemporaryDirectory(dir="/tmp", prefix="rm") as room,
            serving(tiny, *DUMMY, folder=tmp_path, environment={**os.environ, "TMPDIR": room}) as server,
        ):
            pids = [*server.pids("engine"), *server.pids("front")]
            with stopped_while_loading(server, {"model": str(other), "mode": mode}) as (new, answer):
                server.process.terminate()
                assert server.process.wait(60) == 0
                assert all(map(gone, [*pids, new]))
                assert answer.result(60).status_code == 503, "the order was cut"
            assert not os.listdir(room)
