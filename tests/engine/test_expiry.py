"""A request that has waited for its first step longer than it may ends; one that has begun never does."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from radixmill.core.config import ScheduleOptions
from radixmill.core.messages import Deltas
from radixmill.engine.loop import Engine
from radixmill.engine.schedule import Scheduler
from radixmill.link.codec import Frames, decode_from_engine, frame
from radixmill.link.socket import EngineSocket
from tests.engine.drive import Drive
from tests.engine.fakes import HashExecutor, alone, spec, submit
from tests.engine.test_constrained import ToyGrammars, bound


class Clock:
    def __init__(self, drive: Drive) -> None:
        self.now = 1000.0
        drive.scheduler.patience.clock = lambda: self.now


def test_who_waits_too_long_ends_and_who_runs_does_not() -> None:
    drive = Drive(spec(slots=1))
    clock = Clock(drive)
    for number in range(3):
        drive.submit(submit([number], number, max_tokens=8, wait=10.0))
    drive.submit(submit([3], 3, max_tokens=8))  # as long as it takes
    drive.step()
    clock.now += 9.9
    drive.step()
    assert not drive.ends and drive.scheduler.patience.left() == pytest.approx(0.1)
    clock.now += 0.1
    drive.step()
    assert {seq: end.reason for (_, seq), end in drive.ends.items()} == {1: "expired", 2: "expired"}
    assert drive.scheduler.patience.left() is None and drive.scheduler.counters.expired == 2
    drive.run()
    assert drive.tokens["front", 0] == alone([0], 7, 8) and drive.tokens["front", 3] == alone([3], 7, 8)


def test_a_request_has_begun_when_one_of_its_choices_has() -> None:
    drive = Drive(spec(slots=1))
    clock = Clock(drive)
    drive.submit(submit([1], 0, 1, 2, max_tokens=3, wait=1.0))
    drive.step()
    clock.now += 100
    drive.run()
    assert {end.reason for end in drive.ends.values()} == {"length"}


def test_all_choices_of_one_that_has_not_begun_expire_together() -> None:
    drive = Drive(spec(slots=1))
    clock = Clock(drive)
    drive.submit(submit([9], 9, max_tokens=30))
    drive.step()
    drive.submit(submit([1], 0, 1, 2, max_tokens=3, wait=1.0))
    drive.scheduler.cancel("front", 1)
    clock.now += 2
    drive.step()
    assert {seq: end.reason for (_, seq), end in drive.ends.items()} == {0: "expired", 1: "cancelled", 2: "expired"}
    drive.run()


def test_a_record_that_has_said_something_never_expires() -> None:
    drive = Drive(spec(slots=1))
    clock = Clock(drive)
    said = tuple(alone([1], 7, 2))
    drive.submit(submit([9], 9, max_tokens=30))
    drive.step()
    drive.submit(submit([1], 0, max_tokens=5, wait=1.0, output=said))
    drive.submit(submit([1], 1, max_tokens=5, wait=1.0))
    clock.now += 2
    drive.run()
    assert drive.ends["front", 0].reason == "length" and drive.ends["front", 1].reason == "expired"


def test_preempted_ones_do_not_expire() -> None:
    drive = Drive(spec(pages=12, page_size=2, context=20))
    clock = Clock(drive)
    for number in range(3):
        drive.submit(submit([number] * 2, number, max_tokens=18, wait=5.0))
    drive.step()
    clock.now += 100
    drive.run()
    assert drive.scheduler.counters.preemptions and {end.reason for end in drive.ends.values()} == {"length"}


def test_waiting_for_a_grammar_counts() -> None:
    drive = Drive(spec(eos=(49,)), grammars=ToyGrammars(slow=True))
    clock = Clock(drive)
    drive.submit(submit([1], 0, max_tokens=5, wait=1.0, **bound("1,2|3")))
    drive.run()
    assert drive.scheduler.idle and drive.scheduler.patience.left() == 1.0
    clock.now += 1
    assert drive.scheduler.schedule() is None and not drive.scheduler.idle
    drive.run()
    assert drive.ends["front", 0].reason == "expired"
    drive.scheduler.bind_waiting()
    drive.run()


def test_what_a_grammar_says_at_once_is_a_beginning() -> None:
    drive = Drive(spec(slots=1, eos=(49,)), grammars=ToyGrammars())
    clock = Clock(drive)
    drive.submit(submit([9], 9, max_tokens=30, ignore_eos=True))
    drive.step()
    drive.submit(submit([1], 0, max_tokens=5, wait=1.0, **bound("1|2,3|4,5")))
    clock.now += 2
    drive.run()
    assert drive.ends["front", 0].reason == "stop"


def test_nothing_is_left_of_those_that_ended() -> None:
    drive = Drive(spec())
    for number in range(20):
        drive.submit(submit([number], number, max_tokens=2, wait=1000.0))
    drive.submit(submit([1], 20, max_tokens=0, wait=1000.0))
    drive.submit(submit([1] * 999, 21, wait=1000.0))
    drive.scheduler.cancel("front", 3)
    drive.run()
    assert drive.scheduler.patience.left() is None and not drive.scheduler.patience._waits


def test_it_happens_while_nothing_else_does(tmp_path: Path) -> None:
    """The engine's loop waits for messages, and for whoever's time is up next."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "engine"))
    listener.listen()
    model = spec(eos=(49,))
    scheduler = Scheduler(model, ScheduleOptions(), grammars=ToyGrammars(slow=True))  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    engine = Engine(scheduler, HashExecutor(model), EngineSocket(listener, theirs))
    loop = threading.Thread(target=_until_left, args=(engine,), daemon=True)
    loop.start()
    front = socket.socket(socket.AF_UNIX)
    front.settimeout(20)
    front.connect(str(tmp_path / "engine"))
    began = time.monotonic()
    front.sendall(frame(submit([1], 5, wait=0.3, **bound("1,2|3"))))
    frames, deltas = Frames(), None
    while not isinstance(deltas, Deltas):
        for body in frames.push(front.recv(65536)):
            deltas = decode_from_engine(body)
    (delta,) = deltas.items
    assert delta.seq == 5 and delta.end and delta.end.reason == "expired" and time.monotonic() - began >= 0.3
    ours.close()
    loop.join(10)
    front.close()


def _until_left(engine: Engine) -> None:
    with pytest.raises(EOFError):
        engine.run()
