"""Requests over which engines die or hang: each gets its 500 after three deaths, and nobody else loses a byte."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixmill.core.errors import EngineFailed
from radixmill.llm import LLM, Params
from tests.e2e.faults import DEADLY, ENDLESS, LATE, UNBINDABLE, UNBUILDABLE, faulty
from tests.e2e.kit import Server, same, serving, stream, streams
from tests.e2e.test_recovery import body

PATIENCE = 2.5  # seconds, more than a machine that does much else keeps an engine waiting


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("poison")
    flags = ["--load-format", "dummy", "--stall-timeout", str(PATIENCE), "--fronts", "2"]
    with serving(tiny, *flags, folder=folder, environment=faulty(folder)) as started:
        yield started


def deaths(server: Server) -> int:
    return len(re.findall(r"engine \d+ died", server.log.read_text()))


def poison(*tokens: int, **more: Any) -> dict[str, Any]:
    wish = {"model": "default", "prompt": [1, 2, *tokens, 3], "max_tokens": 20, "ignore_eos": True, "rid": "poison"}
    return wish | more


async def ask(server: Server, wish: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        return await client.post(f"{server.url}/v1/completions", json=wish)


def condemned(answer: httpx.Response, id: str) -> None:
    assert answer.status_code == 500, answer.text
    error = answer.json()["error"]
    assert error["code"] == "engine_failed"
    assert f"Request {id} is given up" in error["message"]


def test_a_poison_ends_after_three_deaths_and_others_keep_their_bytes(server: Server) -> None:
    bodies = [body(seed, 60 + 5 * seed, n=1 + seed % 2) for seed in range(16)]

    async def calm() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(stream(server.url, each) for each in bodies)))

    async def disturbed() -> tuple[list[dict[str, Any]], httpx.Response]:
        said = asyncio.Event()
        running = asyncio.gather(*(stream(server.url, each, on_chunk=said.set) for each in bodies))
        await said.wait()
        answer = await ask(server, poison(DEADLY))
        return list(await running), answer

    undisturbed = asyncio.run(calm())
    before = deaths(server)
    folded, answer = asyncio.run(disturbed())
    condemned(answer, "poison")
    assert deaths(server) - before == 3
    for one, two in zip(folded, undisturbed, strict=True):
        assert same(one, two)


def test_one_that_kills_while_it_streams(server: Server) -> None:
    """It has said some tokens; then its error comes as an event."""
    before = deaths(server)

    async def told() -> str:
        async with (
            httpx.AsyncClient(timeout=120, trust_env=False) as client,
            client.stream("POST", f"{server.url}/v1/completions", json=poison(LATE, stream=True)) as answer,
        ):
            assert answer.status_code == 200
            return (await answer.aread()).decode()

    text = asyncio.run(told())
    assert '"engine_failed"' in text and "is given up" in text and text.count("text_completion") >= 2
    assert deaths(server) - before == 3


def test_an_endless_loop_is_found_and_ends_like_a_death(server: Server) -> None:
    before, began = deaths(server), time.monotonic()
    condemned(asyncio.run(ask(server, poison(ENDLESS))), "poison")
    assert deaths(server) - before == 3 and time.monotonic() - began > 3 * PATIENCE
    assert f"no progress for {PATIENCE:g} s" in server.log.read_text()


def test_a_grammar_that_kills_whoever_builds_it(server: Server) -> None:
    """It passes its trial. Those who run meanwhile, and those who wait for another grammar, are not taken for it."""
    bodies = [body(seed, 200) for seed in range(4)]
    bodies += [body(seed, 6, regex=f"[a-e]{{9}}{seed}", ignore_eos=False) for seed in range(4, 7)]
    undisturbed = asyncio.run(streams(server.url, bodies))
    bodies[4:] = [each | {"regex": f"({each['regex']})"} for each in bodies[4:]]  # not built yet, and the same
    before = deaths(server)

    async def disturbed() -> tuple[list[dict[str, Any]], httpx.Response]:
        running = asyncio.gather(*(stream(server.url, each) for each in bodies))
        answer = await ask(server, poison(regex=UNBUILDABLE, ignore_eos=False))
        return list(await running), answer

    folded, answer = asyncio.run(disturbed())
    condemned(answer, "poison")
    assert deaths(server) - before == 3
    assert all(map(same, folded, undisturbed))


def test_a_grammar_that_kills_while_nobody_else_is_there(server: Server) -> None:
    before = deaths(server)
    condemned(asyncio.run(ask(server, poison(regex=UNBUILDABLE, ignore_eos=False))), "poison")
    assert deaths(server) - before == 3
    assert asyncio.run(stream(server.url, body(1, 8)))["finish"] == {0: "length"}


@pytest.mark.slow
def test_grammars_that_kill_when_they_are_given_out(server: Server) -> None:
    """Others wait for theirs at each death."""
    before = deaths(server)
    words = [f"{UNBINDABLE}{i}" for i in range(2)]
    bound = [body(seed, 6, regex=f"[k-p]{{9}}{seed}", ignore_eos=False) for seed in range(6)]

    async def disturbed() -> tuple[list[dict[str, Any]], list[httpx.Response]]:
        wrong = asyncio.gather(*(ask(server, poison(regex=word, ignore_eos=False, rid=word)) for word in words))
        await asyncio.sleep(0.1)
        return await streams(server.url, bound), await wrong

    folded, answers = asyncio.run(disturbed())
    for word, answer in zip(words, answers, strict=True):
        condemned(answer, word)
    assert deaths(server) - before == 6
    assert all(map(same, asyncio.run(streams(server.url, bound)), folded))


@pytest.mark.slow
def test_several_poisons_do_not_take_everybody_down(server: Server) -> None:
    """Nobody else is there to say a token in between: more deaths in a row than a crash loop may have."""
    before = deaths(server)

    async def all_at_once() -> list[httpx.Response]:
        return list(await asyncio.gather(*(ask(server, poison(DEADLY, rid=f"p{i}")) for i in range(3))))

    for i, answer in enumerate(asyncio.run(all_at_once())):
        condemned(answer, f"p{i}")
    assert 5 <= deaths(server) - before <= 3 * 3
    assert asyncio.run(stream(server.url, body(1, 8)))["finish"] == {0: "length"}
    assert server.get("/ready").status_code == 200


def test_all_choices_of_a_poison_end_together(server: Server) -> None:
    before = deaths(server)
    condemned(asyncio.run(ask(server, poison(DEADLY, n=3))), "poison")
    assert deaths(server) - before == 3


def test_offline_too(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", faulty(tmp_path)["PYTHONPATH"])
    with LLM(str(tiny), load_format="dummy") as llm:
        with pytest.raises(EngineFailed, match="is given up"):
            llm.generate([[1, 2, DEADLY]], Params(max_tokens=4, ignore_eos=True), progress=False)
        (answer,) = llm.generate([[1, 2, 3]], Params(max_tokens=4, ignore_eos=True), progress=False)
        assert len(answer.choices[0].token_ids) == 4
