"""The models of a front, told what to do by words of a supervisor that is not there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from radixmill.core.config import Config
from radixmill.core.errors import NotReady
from radixmill.front.models import Model, Models
from radixmill.front.process import Begin, FrontProcess
from radixmill.front.session import Front, Served
from radixmill.observe.pulse import FrontPulse
from radixmill.store import ModelFiles
from tests.fakes import SPEC


class Live:
    """A session of which nothing counts but whether something runs on it."""

    idle, live = True, 0
    served = ("toy",)

    def close(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Stage:
    """A front's models, and what they say."""

    def __init__(self, folder: Path) -> None:
        self.said: list[dict[str, Any]] = []
        self.front = Front(Config())
        self.pulse = FrontPulse(folder / "pulse")
        self.models = Models(self.front, lambda **event: self.said.append(event), self.pulse, 0)
        self.folder = folder

    def add(self, number: int) -> Model:
        """One that could serve."""
        model = self.models._add(number, Config(), ModelFiles("toy", self.folder), asyncio.Future())
        model.session, model.client._spec = Live(), SPEC  # type: ignore[assignment]
        return model

    def released(self) -> list[int]:
        return [each["deployment"] for each in self.said if each["event"] == "released"]


@pytest.fixture
def act(tmp_path: Path) -> Callable[[Callable[[Stage], Any]], None]:
    """Runs a story whose tasks must not fail."""

    def run(story: Callable[[Stage], Any]) -> None:
        faults: list[Any] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
            await asyncio.wait_for(story(Stage(tmp_path)), 20)

        asyncio.run(main())
        assert not faults

    return run


def test_a_model_is_let_go_of_once_however_many_take_over_meanwhile(act: Any) -> None:
    async def story(stage: Stage) -> None:
        first, second = stage.add(1), stage.add(2)
        first.session.idle = False  # type: ignore[misc, union-attr]
        for number in (1, 2):
            stage.models.switch(number)
        stage.add(3)
        stage.models.switch(3)
        while stage.released() != [2]:
            await asyncio.sleep(0.01)
        assert second.number not in stage.models._all
        first.session.idle = True  # type: ignore[misc, union-attr]
        while len(stage.released()) < 2 or stage.models._tasks:
            await asyncio.sleep(0.01)
        assert stage.released() == [2, 1] and list(stage.models._all) == [3]

    act(story)


def test_one_that_never_served_is_let_go_of_too(act: Any) -> None:
    async def story(stage: Stage) -> None:
        stage.add(1).session = None
        stage.add(2)
        stage.models.switch(2)
        while stage.released() != [1]:
            await asyncio.sleep(0.01)

    act(story)


def test_nothing_is_kept_of_those_that_are_gone(act: Any) -> None:
    async def story(stage: Stage) -> None:
        for number in range(1, 20):
            model = stage.add(number)
            stage.models._on_asked(number, 5)
            assert stage.pulse.asked == 5
            stage.models.forget(number)
            model.client._tell_asked()  # its wire ends later
        assert stage.pulse.asked == 0 and not stage.models._asked

    act(story)


def test_words_about_models_that_are_not_there_change_nothing(act: Any) -> None:
    async def story(stage: Stage) -> None:
        stage.models.switch(7)
        stage.models.forget(7)
        stage.models.died(7, [1])
        stage.models.failed(7, "gone")
        await stage.models.engine(7, {"path": "", "pulse": "", "incarnation": 1})
        assert not stage.said

    act(story)


def test_who_comes_up_while_the_others_drain_takes_nothing(act: Any) -> None:
    """A front that was born meanwhile is told to hold before it has anything to serve."""

    async def story(stage: Stage) -> None:
        first = stage.add(1)

        async def opened() -> None: ...

        first.open = opened  # type: ignore[method-assign, assignment]
        stage.models.hold("o")
        await stage.models.open(first)
        with pytest.raises(NotReady, match="another model"):
            stage.front.ready_session()
        assert not stage.front.condition().ready
        stage.models.resume()
        assert not stage.front.holding
        stage.models.hold("p")
        stage.add(2)
        stage.models.switch(2)
        assert not stage.front.holding

    act(story)


def test_it_says_which_order_it_has_obeyed(act: Any) -> None:
    async def story(stage: Stage) -> None:
        stage.add(1)
        stage.models.switch(1)
        stage.models.hold("o")
        while not stage.released():
            await asyncio.sleep(0.01)
        assert stage.said[-1] == {"event": "released", "deployment": 1, "order": "o"}

    act(story)


def test_what_waits_for_an_engine_that_was_ended_ends_with_a_reason(act: Any) -> None:
    async def story(stage: Stage) -> None:
        told: list[Exception] = []
        model = stage.add(1)
        model.session.interrupt = told.append  # type: ignore[method-assign, assignment, union-attr]
        stage.models.ended(1)
        assert [each.code for each in told] == ["model_replaced"]  # type: ignore[attr-defined]
        stage.models.ended(7)

    act(story)


def process(config: Config, folder: Path, line: socket.socket, listener: socket.socket) -> FrontProcess:
    files = ModelFiles("toy", folder)
    pulse = FrontPulse(folder / "pulse")
    return FrontProcess(Begin(config, files, listener, line, started=0.0, number=1, deployment=1, pulse=pulse))


def test_words_of_any_length_go_both_ways(tmp_path: Path) -> None:
    """A word that names thousands of sequences is read; words that nobody reads for a while are kept whole."""
    ours, theirs = socket.socketpair()
    heard: list[Any] = []

    async def story(front: FrontProcess) -> None:
        front._models.died = lambda number, struck: heard.append(struck)  # type: ignore[method-assign]
        following = asyncio.create_task(front._follow_supervisor())
        word = msgspec.json.encode({"event": "died", "deployment": 1, "struck": [1 << 60] * 20000}) + b"\n"
        await asyncio.to_thread(ours.sendall, word)
        while not heard:
            assert not following.done(), following
            await asyncio.sleep(0.01)
        for number in range(30):
            front._say(event="noise", text="x" * 50_000, number=number)
        with ours.makefile("rb") as lines:
            for number in range(30):
                assert msgspec.json.decode(await asyncio.to_thread(lines.readline))["number"] == number
        following.cancel()

    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        front = process(Config(), tmp_path, theirs, listener)
        asyncio.run(asyncio.wait_for(story(front), 30))
    assert [len(struck) for struck in heard] == [20000]


def test_another_model_is_the_remedy_for_one_that_failed(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A front that is restarted after a crash loop has never had a model that serves."""

    async def story(stage: Stage) -> None:
        async def find(config: Config) -> ModelFiles:
            return ModelFiles(config.model.model, stage.folder)

        async def check(*_: object) -> None: ...

        monkeypatch.setattr("radixmill.front.models._find", find)
        monkeypatch.setattr(stage.models, "_check_text", check)
        broken = stage.add(1)
        broken.session = broken.client._spec = None
        with pytest.raises(NotReady, match="loading"):
            await stage.models.reload("good", "beside")
        stage.models.failed(1, "the engine died 5 times in a row without a token")
        order = asyncio.create_task(stage.models.reload("good", "beside"))
        while not stage.said:
            await asyncio.sleep(0.01)
        told = stage.said[0]["order"]
        assert told["model"] == "good"
        stage.add(2)
        stage.models.switch(2)
        stage.models.deployed(told["id"], {"fault": "", "message": ""})
        assert (await order).previous == Served(names=["toy"], numerics="")
        assert stage.front.condition().state != "failed"
        while stage.released() != [1]:
            await asyncio.sleep(0.01)

    act(story)
