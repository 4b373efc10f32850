"""The order of events when one model takes over from another, without any process."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from radixmill.core.config import Config, ModelOptions
from radixmill.observe.watch import Watch
from radixmill.store import ModelFiles
from radixmill.supervise import words
from radixmill.supervise.boot import Order
from radixmill.supervise.deployment import Deployment
from radixmill.supervise.rollout import ANSWER, GRACE, Rollouts


@dataclass(eq=False)
class FakeFront:
    """Hears what a front hears, and does at once what it is told, as far as `does` says."""

    fleet: FakeFleet
    heard: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    killed: bool = False

    def kill(self, why: str) -> None:
        self.killed = True

    def tell(self, **event: Any) -> None:
        self.heard.append(event)
        if event["event"] == "deployed":
            assert self.answer is None, "one answer to one order"
            self.answer = event


class FakeFleet:
    """Deployments without engines; `log` is what happened to them."""

    def __init__(self, fronts: int) -> None:
        self.numbers = itertools.count(1)
        self.deployments: list[Deployment] = []
        self.engines: dict[int, bool] = {}  # number of a deployment with an engine → it was started beside another
        self.fronts: list[Any] = [FakeFront(self) for _ in range(fronts)]
        self.current = self.add(Config(model=ModelOptions(model="old")), ModelFiles("old", Path("/old")))
        self.start_engine(self.current)
        self.current.up = True
        self.now = 0.0
        self.rollouts = Rollouts(self, 10.0, lambda: self.now)

    def announce(self, event: dict[str, Any]) -> None:
        for front in self.fronts:
            front.tell(**event)

    def add(self, config: Config, files: ModelFiles) -> Deployment:
        self.deployments.append(Deployment(next(self.numbers), config, files, Watch(5.0)))
        return self.deployments[-1]

    def start_engine(self, deployment: Deployment, *, beside: bool = False) -> None:
        assert deployment in self.deployments and deployment.number not in self.engines
        self.engines[deployment.number] = beside
        deployment.event = {"event": "engine", "deployment": deployment.number}

    def end_engine(self, deployment: Deployment) -> None:
        self.engines.pop(deployment.number, None)

    def remove(self, deployment: Deployment) -> None:
        self.end_engine(deployment)
        self.deployments.remove(deployment)

    # --- what tests do

    def order(self, mode: Any = "beside", front: int = 0, now: float = 0.0) -> FakeFront:
        self.rollouts.take(self.fronts[front], Order("o", "new", "new", "/new", None, mode), now)
        asker: FakeFront = self.fronts[front]
        return asker

    def come_up(self) -> None:
        self.deployments[-1].up = True
        self.rollouts.advance()

    def say(self, front: Any, event: str, number: int, **more: Any) -> None:
        word = words.read("front", msgspec.json.encode({"event": event, "deployment": number, **more}))
        assert isinstance(word, words.Stage)
        self.rollouts.heard(front, word)

    def all_say(self, event: str, number: int) -> None:
        for front in list(self.fronts):
            self.say(front, event, number)


def fault(front: FakeFront) -> str:
    assert front.answer is not None
    return str(front.answer["fault"])


def test_beside_the_answer_comes_when_every_front_has_switched() -> None:
    fleet = FakeFleet(2)
    asker = fleet.order()
    assert fleet.engines == {1: False, 2: True} and fleet.current.number == 1
    fleet.say(fleet.fronts[0], "prepared", 2)
    fleet.come_up()
    assert fleet.current.number == 1, "one front is not prepared"
    fleet.say(fleet.fronts[1], "prepared", 2)
    assert fleet.current.number == 2 and fleet.current.config.model.model == "new"
    fleet.say(fleet.fronts[0], "switched", 2)
    assert asker.answer is None
    fleet.say(fleet.fronts[1], "switched", 2)
    assert fault(asker) == ""
    fleet.say(fleet.fronts[0], "released", 1)
    assert 1 in fleet.engines, "the other has live requests on it"
    fleet.say(fleet.fronts[1], "released", 1)
    assert fleet.engines == {2: True} and len(fleet.deployments) == 1


def test_drain_ends_the_old_engine_before_the_new_one_starts() -> None:
    fleet = FakeFleet(2)
    asker = fleet.order("drain")
    assert fleet.engines == {1: False}
    assert [event["event"] for event in asker.heard] == ["prepare", "hold"]
    fleet.say(fleet.fronts[0], "released", 1)
    assert fleet.engines == {1: False}
    fleet.say(fleet.fronts[1], "released", 1)
    assert fleet.engines == {2: False}
    fleet.all_say("prepared", 2)
    fleet.come_up()
    fleet.all_say("switched", 2)
    fleet.all_say("released", 1)
    assert fault(asker) == "" and [each.number for each in fleet.deployments] == [2]


def test_drain_waits_for_what_is_still_retiring_too() -> None:
    fleet = FakeFleet(1)
    first = fleet.order()
    fleet.all_say("prepared", 2)
    fleet.come_up()
    fleet.all_say("switched", 2)
    first.answer = None
    fleet.order("drain")
    fleet.all_say("released", 2)
    assert set(fleet.engines) == {1, 2}, "requests on the first are live"
    fleet.all_say("released", 1)
    assert set(fleet.engines) == {3}


def test_a_drain_has_an_end_even_if_a_front_hangs() -> None:
    fleet = FakeFleet(1)
    fleet.order("drain", now=100.0)
    assert fleet.rollouts.deadline == 110.0 + GRACE
    fleet.rollouts.due(fleet.rollouts.deadline - 0.1)
    assert set(fleet.engines) == {1}
    fleet.rollouts.due(fleet.rollouts.deadline)
    assert set(fleet.engines) == {2} and fleet.rollouts.deadline == float("inf")


def replace_dead(fleet: FakeFleet, dead: FakeFront) -> FakeFront:
    fleet.fronts.remove(dead)
    fleet.rollouts.front_gone(dead)  # type: ignore[arg-type]
    fleet.fronts.append(FakeFront(fleet))
    fleet.rollouts.front_started(fleet.fronts[-1])
    fresh: FakeFront = fleet.fronts[-1]
    return fresh


def test_a_front_that_does_not_get_ready_is_replaced_and_the_order_goes_on() -> None:
    fleet = FakeFleet(2)
    asker, hung = fleet.order(), fleet.fronts[1]
    fleet.say(asker, "prepared", 2)
    assert fleet.rollouts.deadline == float("inf"), "an engine may take long to load"
    fleet.now = 1000.0
    fleet.come_up()
    assert fleet.rollouts.deadline == 1000.0 + ANSWER
    fleet.rollouts.due(1000.0 + ANSWER - 1)
    assert not hung.killed
    fleet.rollouts.due(1000.0 + ANSWER)
    assert hung.killed and not asker.killed
    replace_dead(fleet, hung)
    fleet.all_say("switched", 2)
    assert fault(asker) == "" and fleet.current.number == 2


def test_an_order_that_no_front_gets_ready_for_fails() -> None:
    fleet = FakeFleet(3)
    asker, hung = fleet.order(), fleet.fronts[1:]
    fleet.say(asker, "prepared", 2)
    fleet.come_up()
    fleet.rollouts.due(fleet.rollouts.deadline)
    for each in hung:
        replace_dead(fleet, each)
    assert fleet.current.number == 1, "the first successor came while the second front was still waited for"
    fleet.rollouts.due(fleet.rollouts.deadline)
    assert fault(asker) == "engine" and fleet.engines == {1: False} and fleet.current.number == 1


def test_a_front_that_does_not_switch_is_replaced() -> None:
    fleet = FakeFleet(2)
    asker, hung = fleet.order(), fleet.fronts[1]
    fleet.all_say("prepared", 2)
    fleet.come_up()
    fleet.say(asker, "switched", 2)
    fleet.rollouts.due(ANSWER - 1)
    assert asker.answer is None and not hung.killed
    fleet.rollouts.due(ANSWER)
    assert hung.killed and not asker.killed
    replace_dead(fleet, hung)
    assert fault(asker) == ""


def test_a_late_word_of_an_earlier_stage_is_no_switch() -> None:
    fleet = FakeFleet(1)
    asker = fleet.order()
    fleet.all_say("switched", 2)
    fleet.come_up()
    assert fleet.current.number == 1, "it has not prepared anything"
    fleet.all_say("prepared", 2)
    fleet.all_say("prepared", 2)
    assert asker.answer is None


@pytest.mark.parametrize("mode", ["beside", "drain"])
@pytest.mark.parametrize("why", ["room", "engine", "model"])
def test_an_engine_that_fails_takes_its_deployment_with_it(mode: Any, why: Any) -> None:
    fleet = FakeFleet(2)
    asker = fleet.order(mode)
    if mode == "drain":
        fleet.all_say("released", 1)
    assert fleet.rollouts.engine_failed(fleet.deployments[-1], why, "it is bad")
    assert fault(asker) == why and asker.answer and asker.answer["message"] == "it is bad"
    assert fleet.engines == {1: False} and fleet.current.number == 1 and len(fleet.deployments) == 1
    assert [event["event"] for event in asker.heard][-1 - (mode == "drain") - 1] == "forget"
    asker.answer = None
    fleet.order(mode)
    assert len(fleet.deployments) == 2, "the next order is taken"


def test_the_failure_of_another_engine_is_not_ours() -> None:
    fleet = FakeFleet(1)
    assert not fleet.rollouts.engine_failed(fleet.current, "engine", "")
    fleet.order()
    assert not fleet.rollouts.engine_failed(fleet.current, "engine", "")


def test_a_front_that_cannot_prepare_fails_the_order_while_it_drains() -> None:
    fleet = FakeFleet(2)
    asker = fleet.order("drain")
    fleet.say(fleet.fronts[1], "unprepared", 2, message="no tokenizer")
    assert fault(asker) == "model" and fleet.engines == {1: False}
    assert asker.heard[-2]["event"] == "resume"
    fleet.all_say("released", 1)  # said before they heard: it means nothing now
    assert fleet.engines == {1: False}


def test_a_second_order_is_refused_and_so_is_one_while_the_server_stops() -> None:
    fleet = FakeFleet(2)
    fleet.order()
    assert fault(fleet.order(front=1)) == "busy"
    fleet.rollouts.stop()
    assert fault(fleet.fronts[0]) == "stopping" and fleet.engines == {1: False}
    fleet.fronts[1].answer = None
    assert fault(fleet.order(front=1)) == "stopping"


def test_once_fronts_switch_stopping_does_not_undo_it() -> None:
    fleet = FakeFleet(1)
    asker = fleet.order()
    fleet.all_say("prepared", 2)
    fleet.come_up()
    fleet.rollouts.stop()
    fleet.all_say("switched", 2)
    assert fault(asker) == "" and fleet.current.number == 2


def test_a_front_that_starts_meanwhile_is_told_and_waited_for() -> None:
    fleet = FakeFleet(1)
    fleet.order("drain")
    fleet.all_say("released", 1)
    late = FakeFront(fleet)
    fleet.fronts.append(late)
    fleet.rollouts.front_started(late)  # type: ignore[arg-type]
    assert [event["event"] for event in late.heard] == ["prepare", "hold", "engine"]
    fleet.say(fleet.fronts[0], "prepared", 2)
    fleet.come_up()
    assert fleet.current.number == 1
    fleet.say(late, "prepared", 2)
    assert fleet.current.number == 2


def test_a_front_born_while_others_drain_is_waited_for_too() -> None:
    """It may have come up on the old model before it heard that it is to hold."""
    fleet = FakeFleet(2)
    fleet.order("drain")
    late = replace_dead(fleet, fleet.fronts[1])
    fleet.say(fleet.fronts[0], "released", 1, order="o")
    assert fleet.engines == {1: False}, "what runs at the late one needs it"
    fleet.say(late, "released", 1, order="o")
    assert fleet.engines == {2: False}


def test_who_waits_for_an_engine_that_is_ended_on_purpose_is_told() -> None:
    fleet = FakeFleet(1)
    fleet.order("drain")
    fleet.now = 10.0 + GRACE
    fleet.rollouts.due(fleet.now)
    assert fleet.engines == {2: False}, "nobody has let go of the old one"
    assert {"event": "ended", "deployment": 1} in fleet.fronts[0].heard


def test_what_was_said_of_one_order_does_not_count_for_the_next() -> None:
    fleet = FakeFleet(1)
    asker = fleet.order("drain")
    fleet.rollouts.engine_failed(fleet.deployments[-1], "engine", "died")
    asker.answer = None
    fleet.rollouts.take(asker, Order("p", "new", "new", "/new", None, "drain"), 0.0)  # type: ignore[arg-type]
    fleet.say(asker, "released", 1, order="o")  # sent before it heard that it is to resume
    assert fleet.engines == {1: False}
    fleet.say(asker, "released", 1, order="p")
    assert fleet.engines == {3: False}


@pytest.mark.parametrize("mode", ["beside", "drain"])
@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_in_whatever_order_it_ends_well(mode: Any, seed: int) -> None:
    """Fronts die and are replaced, engines fail, words come late: in the end one deployment serves, with an engine, and
    who asked and lived has an answer."""
    rng = random.Random(seed)
    fleet = FakeFleet(rng.choice([1, 2, 3]))
    asker = fleet.order(mode, front=0)
    read: dict[FakeFront, int] = {}
    owes: list[tuple[FakeFront, str, int]] = []  # what fronts have yet to say
    failed = False

    def follow(front: FakeFront) -> None:
        for event in front.heard[read.get(front, 0) :]:
            number = event.get("deployment", 0)
            match event["event"]:
                case "prepare":
                    owes.append((front, "prepared", number))
                case "hold":
                    owes.append((front, "released", 1))
                case "switch":
                    owes.append((front, "switched", number))
                    owes.append((front, "released", 1))
        read[front] = len(front.heard)

    for _ in range(400):
        for front in fleet.fronts:
            follow(front)
        new = fleet.deployments[-1] if len(fleet.deployments) > 1 or fleet.current.number > 1 else None
        dice = rng.random()
        if dice < 0.04 and fleet.fronts:
            dead = fleet.fronts.pop(rng.randrange(len(fleet.fronts)))
            fleet.rollouts.front_gone(dead)
            owes[:] = [each for each in owes if each[0] is not dead]
            fresh = FakeFront(fleet)
            fleet.fronts.append(fresh)
            fleet.rollouts.front_started(fresh)  # type: ignore[arg-type]
        elif dice < 0.06 and new and new is not fleet.current and new.number in fleet.engines:
            failed = fleet.rollouts.engine_failed(new, "engine", "died") or failed
            owes[:] = [each for each in owes if each[2] != 2]
        elif dice < 0.3 and new and new.number in fleet.engines and not new.up:
            new.up = True
            fleet.rollouts.advance()
        elif owes:
            choice = rng.randrange(len(owes))
            front, word, number = owes[choice]
            target = next((each for each in fleet.deployments if each.number == number), None)
            if word == "prepared" and target and not target.up:
                continue  # prepared means that its engine is up
            first = next(i for i, each in enumerate(owes) if each[0] is front and each[1] in (word, "switched"))
            if owes[first][1] == "switched" and word == "released" and first < choice:
                continue
            del owes[choice]
            fleet.say(front, word, number)
        assert fleet.current in fleet.deployments
    if asker in fleet.fronts:
        assert fault(asker) == ("engine" if failed else "")
    assert set(fleet.engines) == {fleet.current.number} and fleet.deployments == [fleet.current]
    assert fleet.current.number == (1 if failed else 2)
