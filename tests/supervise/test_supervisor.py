"""The supervisor's loop, with children that are only the other ends of their lines."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from radixmill.core.config import LAST_WORDS, Config, ServerOptions
from radixmill.core.errors import CannotStart
from radixmill.observe.pulse import FrontPulse
from radixmill.store import ModelFiles
from radixmill.supervise import blame, child, children, folder, fronts, supervisor
from radixmill.supervise.child import Child
from radixmill.supervise.folder import Folder
from radixmill.supervise.rollout import ANSWER
from radixmill.supervise.supervisor import Supervisor

PIDS = itertools.count((1 << 22) + 1)  # beyond what a kernel gives


class FakeProcess:
    """Like Popen, one whose death we see as soon as we kill it."""

    def __init__(self, role: str, line: socket.socket) -> None:
        self.role, self.line = role, line.dup()
        self.pid, self.returncode = next(PIDS), None
        self.line.setblocking(False)

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.die(-signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        assert self.returncode is not None, "nobody may wait for one that lives"
        return self.returncode

    def die(self, status: int = 1) -> None:
        if self.returncode is None:
            self.returncode = status  # type: ignore[assignment]
            self.line.close()

    def say(self, **event: Any) -> None:
        self.line.send(json.dumps(event).encode() + b"\n")

    def heard(self) -> list[dict[str, Any]]:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := self.line.recv(1 << 20):
                data += more
        return [json.loads(line) for line in data.split(b"\n") if line]


class Stage:
    """A supervisor and what it has started."""

    def __init__(self, fronts: int, stall_timeout: float = 5.0) -> None:
        self.started: list[FakeProcess] = []
        self.refusals: list[int] = []  # error numbers that the next starts meet
        server = ServerOptions(host="127.0.0.1", port=0, fronts=fronts, stall_timeout=stall_timeout)
        self.supervisor = Supervisor(Config(server=server), ModelFiles("m", Path("/m")), started=0.0)

    def start_role(self, role: str, line: socket.socket, *_: socket.socket) -> FakeProcess:
        if self.refusals:
            raise OSError(self.refusals.pop(0), "no room")
        self.started.append(FakeProcess(role, line))
        return self.started[-1]

    def all(self, role: str) -> list[FakeProcess]:
        return [each for each in self.started if each.role == role]

    def live(self, role: str) -> list[FakeProcess]:
        return [each for each in self.all(role) if each.returncode is None]

    @property
    def engine(self) -> FakeProcess:
        (engine,) = self.live("engine")
        return engine

    def begin(self) -> None:
        self.supervisor.start()
        self.engine.say(event="up", tokens=1000, context=100, bytes=0)
        for front in self.live("front"):
            front.say(event="up")
        self.settle()

    def settle(self) -> None:
        for _ in range(4):
            self.supervisor.turn(0)

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline
            self.supervisor.turn(0.01)

    @property
    def ended(self) -> int | None:
        return self.supervisor._exit

    def files(self) -> set[str]:
        return {path.name for each in self.supervisor._folder._all for path in each.iterdir()}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(fronts: int = 1, **more: Any) -> Stage:
        made.append(Stage(fronts, **more))
        monkeypatch.setattr(children, "start_role", made[-1].start_role)
        return made[-1]

    monkeypatch.setattr(blame, "_ooms", lambda: 0)
    monkeypatch.setattr(supervisor, "RETRY", 0.01)
    yield make
    for each in made:
        each.supervisor.close()


def events(process: FakeProcess) -> list[str]:
    return [each.get("event", "boot") for each in process.heard()]


Make = Callable[..., Stage]


def test_the_death_of_an_engine_is_told_and_another_starts(stage: Make) -> None:
    it = stage(2)
    it.begin()
    for front in it.live("front"):
        front.heard()
    it.engine.die(-11)
    it.settle()
    assert len(it.all("engine")) == 2
    died, engine = it.live("front")[1].heard()
    assert died["event"] == "died" and died["cause"] == "SIGSEGV"
    assert engine["event"] == "engine" and engine["incarnation"] == 2


def test_an_engine_that_stalls_is_replaced_though_its_death_was_seen_at_once(stage: Make) -> None:
    it = stage(stall_timeout=0.1)
    it.begin()
    it.supervisor.current.engine.pulse.load(busy=True, running=1, waiting=0)  # type: ignore[union-attr]
    it.until(lambda: len(it.all("engine")) == 2)
    cause = next(each for each in it.live("front")[0].heard() if each.get("event") == "died")["cause"]
    assert cause == "no progress for 0.1 s"


def test_one_that_dies_five_times_without_a_token_is_given_up_and_forgiven_only_by_its_own_number(stage: Make) -> None:
    it = stage()
    it.begin()
    for number in (7, 1, 7):
        it.supervisor.current.crashes = 4
        it.live("front")[0].say(event="condemned", deployment=number)
        it.settle()
        it.engine.die()
        it.settle()
        if number == 1:
            assert it.engine, "that was its first death"
        else:
            assert not it.live("engine") and it.ended is None and "failed" in events(it.live("front")[0])
            it.supervisor.start_engine(it.supervisor.current)


GARBAGE = [
    b"\xff\xfe\n",
    b"{}\n",
    b"null\n",
    b'{"event": "no such"}\n',
    b'{"event": "up", "tokens": "many", "context": 1}\n',
    b'{"event": "deploy"}\n',
    b'{"event": "deploy", "order": {"id": 1}}\n',
    b'{"event": "prepared"}\n',
    b'{"event": "progress", "x": ' + b"[" * 50000 + b"\n",
    b"x" * 3000,
]


@pytest.mark.parametrize("role", ["engine", "front"])
@pytest.mark.parametrize("said", [*GARBAGE, b'{"event": "up"}\n'], ids=range(len(GARBAGE) + 1))
def test_a_child_that_says_what_cant_be_read_is_replaced(
    stage: Make, role: str, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "HELD", 2000)
    it = stage(2)
    it.begin()
    broken = it.live(role)[0]
    broken.line.send(said)
    it.settle()
    if role == "front" and b'"up"}' in said:
        assert broken.returncode is None
        return
    assert broken.returncode is not None and len(it.live("engine")) == 1 and len(it.live("front")) == 2
    assert it.ended is None and broken not in it.live(role)


@pytest.mark.parametrize("role", ["engine", "front"])
def test_a_child_that_cant_be_started_now_is_started_later(stage: Make, role: str) -> None:
    it = stage()
    it.begin()
    it.refusals += [errno.EAGAIN, errno.EMFILE]
    dead = it.live(role)[0]
    dead.die()
    it.until(lambda: len(it.all(role)) == 2)
    assert not it.refusals and it.ended is None
    assert it.files() == {"local.pulse", *(path.name for each in it.supervisor._children._all for path in each.paths)}


def test_a_server_that_cant_start_a_process_says_so(stage: Make) -> None:
    it = stage()
    it.refusals.append(errno.EAGAIN)
    with pytest.raises(CannotStart, match=r"the engine can't be started \(no room\)"):
        it.supervisor.start()
    it.refusals += [0, 0]
    del it.refusals[:1]
    with pytest.raises(CannotStart):
        it.supervisor.run()
    assert not it.live("engine") and not it.supervisor._folder.path.exists()


def test_a_new_model_whose_engine_cant_be_started_is_not_loaded(stage: Make) -> None:
    it = stage()
    it.begin()
    it.refusals.append(errno.ENOMEM)
    deploy(it.live("front")[0], "drain")
    it.live("front")[0].say(event="released", deployment=1)
    it.settle()
    answer = it.live("front")[0].heard()[-1]
    assert answer["event"] == "deployed" and answer["fault"] == "engine" and "no room" in answer["message"]
    assert len(it.live("engine")) == 1, "the old one serves again"


def test_the_dead_leave_no_files(stage: Make) -> None:
    it = stage()
    it.begin()
    at_first = len(it.files())
    for _ in range(3):
        it.engine.say(event="progress")
        it.settle()
        it.engine.die()
        it.live("front")[0].die()
        it.settle()
        it.live("front")[0].say(event="up")
        it.settle()
    assert len(it.all("engine")) == len(it.all("front")) == 4 and len(it.files()) == at_first


def test_a_full_memory_is_left_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder.tempfile, "tempdir", str(tmp_path / "disk"))
    for name in ("disk", "memory"):
        (tmp_path / name).mkdir()
    made, full = Folder(str(tmp_path / "memory")), [errno.ENOSPC]

    def build(path: Path) -> Path:
        if full:
            raise OSError(full.pop(), "full")
        return path

    assert made.path.parent.name == "memory" and made.make(build).parent.name == "disk" == made.path.parent.name
    full.append(errno.ENOSPC)
    with pytest.raises(OSError, match="full"):
        made.make(build)
    made.remove()
    assert not [*(tmp_path / "disk").iterdir(), *(tmp_path / "memory").iterdir()]


def test_a_front_that_does_not_read_blocks_nobody_and_is_killed_in_the_end(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "UNSENT", 1 << 20)
    it = stage(2)
    it.begin()
    mute, other = it.live("front")
    while mute.returncode is None:
        it.supervisor.announce({"event": "x", "more": "x" * 50000})
        other.heard()
    it.settle()
    assert len(it.live("front")) == 2 and it.live("front")[0] is other


def test_what_a_socket_had_no_room_for_is_sent_when_it_has(stage: Make) -> None:
    it = stage()
    it.begin()
    (front,) = it.live("front")
    front.heard()
    for number in range(100):
        it.supervisor.announce({"event": "x", "number": number, "more": "x" * 20000})
    told: list[int] = []
    data = b""
    deadline = time.monotonic() + 10
    while len(told) < 100:
        assert time.monotonic() < deadline
        it.supervisor.turn(0)
        with contextlib.suppress(BlockingIOError):
            data += front.line.recv(1 << 20)
        *lines, data = data.split(b"\n")
        told += [json.loads(line)["number"] for line in lines]
    assert told == list(range(100))


def test_two_signals_seen_as_one_are_two(stage: Make) -> None:
    it = stage()
    it.begin()
    (front,) = it.live("front")
    deploy(front)
    it.settle()
    front.heard()
    it.supervisor.stop()
    it.supervisor.stop()
    it.settle()
    told = front.heard()
    assert [each["event"] for each in told] == ["deployed", "drain", "drain"]
    assert told[0]["fault"] == "stopping" and [each["seconds"] for each in told[1:]] == [30.0, 0.0]
    assert LAST_WORDS < it.supervisor._deadline - time.monotonic() < 10


def test_a_wake_for_something_else_does_not_put_the_end_off(stage: Make) -> None:
    it = stage()
    it.begin()
    it.live("front")[0].heard()
    it.supervisor.condemned()
    it.settle()
    assert it.live("front")[0].heard() == [], "nobody has said stop"
    it.supervisor.stop()
    it.settle()
    deadline = it.supervisor._deadline
    it.live("front")[0].heard()
    it.supervisor.condemned()
    it.settle()
    assert it.supervisor._deadline == deadline and it.live("front")[0].heard() == []
    it.live("front")[0].die(0)
    it.settle()
    assert it.ended == 0


def test_kills_from_outside_between_tokens_are_nobodys_fault(stage: Make) -> None:
    """However often the same request is in flight: it may wait for a long prompt while other streams say tokens."""
    it = stage()
    it.begin()
    struck = []
    for other in range(3):
        it.engine.say(event="up", tokens=1000, context=100)
        it.engine.say(event="progress")
        it.settle()
        it.supervisor.current.engine.pulse.launched(0, [7, 100 + other])  # type: ignore[union-attr]
        it.engine.kill()
        it.settle()
        struck += [each["struck"] for each in it.live("front")[0].heard() if each.get("event") == "died"]
    assert struck == [[], [], []]


CHANGED = "model.safetensors changed on disk"


def test_an_engine_whose_model_changed_is_the_last_of_its_deployment(stage: Make) -> None:
    """It is told what the first has loaded; if it can't load that, nothing is served under the old name until a reload."""
    it, marks, texts = stage(), [["model.safetensors", 10, 20, 30]], [["tokenizer.json", "abc"]]
    it.supervisor.start()
    assert it.engine.heard()[0]["earlier"] is None
    it.engine.say(
        event="up", tokens=1000, context=100, identity={"numerics": "n", "weight_marks": marks, "text_marks": texts}
    )
    (front,) = it.live("front")
    front.say(event="up")
    it.settle()
    it.engine.die()
    it.settle()
    assert it.engine.heard()[0]["earlier"] == {"numerics": "n", "weight_marks": marks, "text_marks": texts}
    front.heard()
    it.engine.say(event="cannot_start", message=CHANGED, changed=True)
    it.engine.die(2)
    it.settle()
    assert not it.live("engine") and it.ended is None
    assert front.heard() == [{"event": "failed", "deployment": 1, "detail": CHANGED}]
    deploy(front)
    it.settle()
    assert it.engine.heard()[0]["earlier"] is None


def test_an_engine_that_cant_take_over_for_another_reason_is_tried_again(stage: Make) -> None:
    it = stage()
    it.begin()
    it.engine.die()
    it.settle()
    it.engine.say(event="cannot_start", message="too little memory", no_room=True)
    it.engine.die(2)
    it.until(lambda: len(it.all("engine")) == 3)


def deploy(front: FakeProcess, mode: str = "beside") -> None:
    order = {"id": "o", "model": "n", "name": "n", "root": "/n", "sha256": None, "mode": mode}
    front.say(event="deploy", order=order)


def test_a_front_that_dies_while_a_model_loads_is_replaced_on_both(stage: Make) -> None:
    it = stage(2)
    it.begin()
    asker, other = it.live("front")
    deploy(asker)
    it.settle()
    other.die()
    it.settle()
    fresh = it.live("front")[1]
    assert events(fresh) == ["boot", "engine", "prepare", "engine"]
    it.live("engine")[1].say(event="up", tokens=10, context=10)
    for front in (asker, fresh):
        front.say(event="prepared", deployment=2)
        it.settle()
    for front in (asker, fresh):
        front.say(event="switched", deployment=2)
        front.say(event="released", deployment=1)
    it.settle()
    assert asker.heard()[-1]["fault"] == "" and it.engine is it.all("engine")[1]


def test_a_front_that_stands_still_does_not_stop_a_reload(stage: Make) -> None:
    it = stage(2)
    it.begin()
    asker, hung = it.live("front")
    deploy(asker)
    it.settle()
    it.live("engine")[1].say(event="up", tokens=10, context=10)
    asker.say(event="prepared", deployment=2)
    it.settle()
    it.supervisor._rollouts.due(time.monotonic() + ANSWER + 1)
    it.settle()
    assert hung.returncode is not None and it.supervisor.current.number == 2
    assert it.live("front")[1] is not hung and len(it.live("front")) == 2


def turning(front: Child) -> None:
    assert isinstance(front.pulse, FrontPulse)
    front.pulse.beat()


def test_a_front_whose_event_loop_stands_still_is_replaced(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "PATIENT_LOW", 0.2)
    it = stage(2, stall_timeout=0.01)
    it.begin()
    hung, other = it.live("front")
    theirs = it.supervisor.fronts[1]
    it.until(lambda: turning(theirs) or len(it.all("front")) == 3)
    fresh = it.live("front")[1]
    assert hung.returncode is not None and it.live("front")[0] is other and it.ended is None
    assert len(it.all("engine")) == 1 and events(fresh) == ["boot", "engine"]


def test_fronts_are_looked_at_where_there_is_no_engine_any_more(stage: Make) -> None:
    it = stage()
    it.begin()
    it.supervisor.current.crashes = 4
    it.engine.die()
    it.settle()
    patience = it.supervisor._patience(None)
    assert not it.live("engine") and patience is not None and 0.1 < patience < 1


def test_whoever_is_late_at_the_end_of_a_drain_is_not_taken_for_one_that_hangs(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = stage()
    it.begin()
    looks: list[float] = []
    monkeypatch.setattr(it.supervisor._fronts, "look", looks.append)
    it.supervisor.stop()
    it.settle()
    assert looks, "a drain may be long"
    looks.clear()
    it.supervisor._deadline = time.monotonic() - 1
    it.supervisor.turn(0)
    assert it.ended == 0 and not looks


def test_a_front_that_hangs_while_the_server_drains_does_not_hold_up_its_end(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "PATIENT_LOW", 0.2)
    it = stage(stall_timeout=0.01)
    it.begin()
    it.supervisor.stop()
    it.until(lambda: it.ended is not None)
    assert it.ended == 0 and len(it.all("front")) == 1, "no other is started"


def test_the_last_front_to_come_up_is_told_so(stage: Make) -> None:
    it = stage(2)
    it.supervisor.start()
    first, second = it.live("front")
    first.say(event="up")
    it.settle()
    assert "all_up" not in events(first)
    second.say(event="up")
    it.settle()
    assert "all_up" in events(second) and "all_up" not in events(first)


@pytest.mark.parametrize("server", [True, False])
def test_only_a_server_reaps_what_others_left(stage: Make, monkeypatch: pytest.MonkeyPatch, server: bool) -> None:
    reaped: list[list[int]] = []
    monkeypatch.setattr(supervisor, "bury_strangers", lambda pids: reaped.append(list(pids)))
    monkeypatch.setattr(supervisor.os, "getpid", lambda: 1)
    it = stage()
    if not server:
        it.supervisor.listener.close()  # type: ignore[union-attr]
        it.supervisor.listener = None
    it.supervisor.start()
    it.engine.say(event="up", tokens=10, context=10)
    it.settle()
    it.engine.die()
    it.settle()
    assert bool(reaped) == server and it.engine.pid not in reaped[:1]
