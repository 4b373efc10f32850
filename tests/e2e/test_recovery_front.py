"""Engines that die at every step under whole answers: text, ids, log-probabilities, constraints, thoughts, calls, counts."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, ModelOptions, ScheduleOptions
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.engine.grammar import Grammars
from radixmill.engine.loop import Engine
from radixmill.engine.schedule import Scheduler
from radixmill.front.api.app import create_app
from radixmill.front.session import Front, ModelText
from radixmill.front.session.open import open_session, open_text
from radixmill.launch import builders
from radixmill.link.remote import RemoteEngine
from radixmill.link.socket import EngineSocket
from radixmill.observe.pulse import EnginePulse
from radixmill.store import ModelFiles
from tests.e2e.kit import TINY, tiny_model
from tests.e2e.test_recovery_exact import Dying, Fatal
from tests.e2e.test_thinking import SCHEMA, TEMPLATE
from tests.front.kit import parse_sse
from tests.front.test_api_fold import fold_chat

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "a schema": (TEXT, {"prompt": "hi", "response_format": FORMAT, "logprobs": 2, "max_tokens": 40}),
    "thoughts, then a schema": (
        CHAT,
        {"messages": HI, "response_format": FORMAT, "max_thinking_tokens": 6, "max_tokens": 50, "logprobs": True},
    ),
    "thoughts": (CHAT, {"messages": HI, "max_thinking_tokens": 4, "ignore_eos": True}),
    "a call": (
        CHAT,
        {"messages": HI, "tools": [TOOL], "tool_choice": "required", "max_thinking_tokens": 0, "max_tokens": 99},
    ),
    "choices, penalties, a stop": (
        TEXT,
        {"prompt": "abc", "n": 3, "logprobs": 2, "stop": ["e", "q"], "ignore_eos": True, "frequency_penalty": 0.5},
    ),
    "a prompt's scores": (TEXT, {"prompt": "some words", "echo": True, "logprobs": 1, "ignore_eos": True}),
    "a prompt's scores alone": (TEXT, {"prompt": "other words", "echo": True, "logprobs": 1, "max_tokens": 0}),
    "best of": (TEXT, {"prompt": "abc", "best_of": 3, "n": 1, "ignore_eos": True}),
}


@dataclass
class Stage:
    """What all plays share: a model that need not be loaded again, its text, its grammars."""

    config: Config
    files: ModelFiles
    executor: LocalExecutor
    text: ModelText
    grammars: Grammars


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tiny_model(tmp_path_factory.mktemp("front") / "tiny")
    (folder / "config.json").write_text(json.dumps({**TINY, "num_hidden_layers": 3}))
    (folder / "thinks.jinja").write_text(TEMPLATE)
    model = ModelOptions(
        load_format="dummy",
        chat_template=str(folder / "thinks.jinja"),
        reasoning_parser="qwen3",
        tool_call_parser="hermes",
        trust_parsers=True,
    )
    cache, schedule = CacheOptions(page_size=16, max_total_tokens=8192), ScheduleOptions(step_tokens=64)
    config = Config(model=model, compute=ComputeOptions(threads=1), cache=cache, schedule=schedule)
    files = ModelFiles("tiny", folder)
    executor = open_executor(config, files)
    grammars = Grammars(builders(config, files, executor.spec))
    yield Stage(config, files, executor, open_text(config, files), grammars)
    grammars.close()


class Play:
    """Engines that live for so many steps each, the last one for ever, behind one front."""

    def __init__(self, stage: Stage, deaths: list[int], *, after: bool, overlap: bool) -> None:
        self.stage, self.overlap = stage, overlap
        lives = [Dying(stage.executor, steps, after=after) for steps in deaths]
        self.lives = iter([*lives, Dying(stage.executor, 10**6, after=False)])
        self.buried = 0
        self.progressed: set[int] = set()  # engines that have committed a token

    def begin(self, path: Path, number: int) -> tuple[threading.Thread, EnginePulse]:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        grammars, pulse = self.stage.grammars, EnginePulse.private()
        link = EngineSocket(listener, None, grammars.wake)
        dying = next(self.lives)
        scheduler = Scheduler(dying.spec, ScheduleOptions(step_tokens=64, speculation="ngram"), True, None, grammars)
        engine = Engine(
            scheduler,
            dying,
            link,
            incarnation=number,
            overlap=self.overlap,
            grammars=grammars,
            pulse=pulse,
            on_progress=lambda: self.progressed.add(number),
        )

        def live() -> None:
            try:
                engine.run()
            except Fatal:
                link.close()

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        return thread, pulse

    async def nurse(self, client: RemoteEngine, folder: Path) -> None:
        """What the supervisor does, where somebody from outside kills the engine."""
        for number in itertools.count(1):
            path = folder / str(number)
            thread, pulse = self.begin(path, number)
            await client.connect(str(path), number)
            while thread.is_alive():
                await asyncio.sleep(0.0005)
            self.buried += 1
            if number not in self.progressed and self.buried > 1:
                client.strike(sorted(pulse.flying()))

    async def answers(self) -> dict[str, Any]:
        client = RemoteEngine()
        with tempfile.TemporaryDirectory() as folder:
            nurse = asyncio.create_task(self.nurse(client, Path(folder)))
            await client.ready()
            front = Front(self.stage.config, client)
            front.session = open_session(self.stage.config, self.stage.files, self.stage.text, client)
            transport = httpx.ASGITransport(create_app(front))
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
                told = await asyncio.gather(*(ask(http, *wish) for wish in ASKED.values()))
            nurse.cancel()
            client.close()
        return dict(zip(ASKED, told, strict=True))


async def ask(http: httpx.AsyncClient, path: str, wish: dict[str, Any]) -> dict[str, Any]:
    """An answer, and where it can be streamed the fold of its stream too; without what may differ."""
    body = {"model": "default", "seed": 11, "max_tokens": 24, "temperature": 1.0, "return_token_ids": True, **wish}
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    whole = answer.json()
    if path == CHAT:
        streamed = await http.post(path, json={**body, "stream": True, "stream_options": {"include_usage": True}})
        assert (
            streamed.status_code == 200
            and plain(fold_chat(parse_sse(streamed.text)))["choices"] == plain(whole)["choices"]
        )
    return plain(whole)


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    answer = json.loads(json.dumps(answer))
    for choice in answer["choices"]:
        for call in choice.get("message", {}).get("tool_calls") or ():
            del call["id"]  # drawn anew for each answer
    usage = {k: v for k, v in answer["usage"].items() if k != "prompt_tokens_details"}
    return {"choices": answer["choices"], "usage": usage, "seed": answer.get("seed")}


def play(stage: Stage, deaths: list[int], *, after: bool = True, overlap: bool = False) -> tuple[dict[str, Any], int]:
    scene = Play(stage, deaths, after=after, overlap=overlap)
    return asyncio.run(asyncio.wait_for(scene.answers(), 120)), scene.buried


@pytest.fixture(scope="module")
def undisturbed(stage: Stage) -> dict[str, Any]:
    told, _ = play(stage, [])
    assert told["a schema"]["choices"][0]["text"].startswith("{")
    message = told["thoughts, then a schema"]["choices"][0]["message"]
    assert message["reasoning_content"] and message["content"].startswith("{")
    assert told["a call"]["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
    assert told["choices, penalties, a stop"]["choices"][0]["finish_reason"] in ("stop", "length")
    return told


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_whole_answers_survive_a_death_at_every_step(stage: Stage, undisturbed: dict[str, Any], overlap: bool) -> None:
    for steps in range(0, 200, 2 if not overlap else 5):
        told, died = play(stage, [steps], after=bool(steps & 2), overlap=overlap)
        for name, answer in told.items():
            assert answer == undisturbed[name], f"{name}: died at step {steps}"
        if not died:
            break
    else:
        pytest.fail("there were more steps")


def test_whole_answers_survive_a_chain_of_deaths(stage: Stage, undisturbed: dict[str, Any]) -> None:
    """In the middle of resubmission, right after Ready, and without a token between: whoever was struck runs alone, nobody is given up."""
    told, died = play(stage, [7, 0, 3, 2, 0, 5, 1])
    assert told == undisturbed and died == 7
