"""Grammars tried in a process of their own: bombs, deaths, limits, and what the engine keeps of it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from radixmill.core.request import Constraint
from radixmill.engine.grammar import Built, GrammarError, Grammars, Refused, Vocabulary, service
from radixmill.engine.grammar.frames import Job, Tried, frame
from radixmill.engine.grammar.matcher import Start
from radixmill.engine.grammar.service import Keep, Silence
from radixmill.observe.watch import Watch
from radixmill.sacrifice.frames import Frames, is_whole
from tests.engine.grammar_kit import EOS, VOCABULARY, allowed

BUILDER = """
import socket, sys
import msgspec
from radixmill.engine.grammar import Vocabulary
from radixmill.engine.grammar.builder import serve
serve(socket.socket(fileno=int(sys.argv[1])), msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Vocabulary))
"""
# For a machine that does much else: what takes all its time gets it, however long that takes.
CALM = BUILDER.replace("type=Vocabulary))", "type=Vocabulary), builder.Bounds(patience=60.0, nice=0))").replace(
    "import Vocabulary", "import Vocabulary, builder"
)


@dataclass
class Bench:
    """An engine's grammars, and the builders that they have started."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    keep: Keep = field(default_factory=Keep)
    code: str = BUILDER
    silence: Silence | None = None

    def __post_init__(self) -> None:
        self.grammars = Grammars(self.open, self.keep, self.silence)

    def open(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", self.code, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdin
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(msgspec.msgpack.encode(VOCABULARY))
        return ours, process

    def begin(self, kind: Any, text: Any) -> Built | Refused | None:
        return self.grammars.want(constraint(kind, text))

    def wait(self, kind: Any, text: Any, limit: float = 60.0) -> Built | Refused:
        until = time.monotonic() + limit
        while (found := self.begin(kind, text)) is None:
            assert time.monotonic() < until, "no answer"
            select.select([self.grammars.wake], [], [], 1.0)
            self.grammars.poll()
        return found

    def seconds(self) -> float:
        """Of the processor: by this process, the builders, and the trials that are over. Others' load is no matter."""
        ticks = 0
        for process in self.processes:
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/stat") as file:
                ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.grammars.close()
        for process in self.processes:
            process.wait(60)


def constraint(kind: Any, text: Any) -> Constraint:
    return Constraint(kind=kind, text=text if isinstance(text, str) else json.dumps(text))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def warm() -> Iterator[Bench]:
    bench = Bench(code=CALM)
    assert isinstance(bench.wait("regex", "warm"), Built)
    yield bench
    bench.close()


def test_a_grammar_is_built_and_refused_elsewhere_and_used_here(warm: Bench) -> None:
    built = warm.wait("regex", "ab?")
    assert isinstance(built, Built)
    match = built.matcher([ord("a")])
    assert EOS in allowed(match)
    with pytest.raises(GrammarError):
        built.matcher([ord("x")])
    assert warm.wait("ebnf", "root ::= x") == Refused("the grammar has no rule named x", "line 1, column 10")
    assert not select.select([warm.grammars.wake], [], [], 0)[0]


# --- bombs


def nested(depth: int) -> str:
    return '{"properties":{"a":' * depth + "{}" + "}}" * depth


def rules(*lines: str) -> str:
    return "\n".join(lines)


FAN = [f"r{i} ::= " + f"r{i + 1} " * 8 for i in range(5)]
CHAIN = [f'r{i} ::= r{i + 1} "x"' for i in range(3000)]
DOUBLING = [f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)]
PROPERTIES = {f"property number {i}": {"type": "string", "pattern": f"^[a-z]{{1,{i}}}$"} for i in range(60_000)}
ENUM = [f"{i * 7919:020d}" for i in range(220_000)]
CHOICES = " | ".join(f'"{i}"' for i in range(20_000))

REFUSED: dict[str, tuple[str, Any]] = {
    "cycle": ("ebnf", "root ::= root"),
    "cycle of two": ("ebnf", "root ::= a\na ::= root | b\nb ::= a"),
    "nested ambiguity": ("ebnf", rules("root ::= r0", *FAN, 'r5 ::= "a" | "a" "a" | ""')),
    "empty loops": ("ebnf", "root ::= (([a]*)*)* root | [a]?"),
    "maxItems 2^63": ("json_schema", {"type": "array", "items": {"type": "integer"}, "maxItems": 2**63}),
    "minItems 2^31": ("json_schema", {"type": "array", "items": {"type": "integer"}, "minItems": 2**31}),
    "maxLength 2^63": ("json_schema", {"type": "string", "maxLength": 2**63}),
    "5 MB of properties": ("json_schema", {"properties": PROPERTIES}),
    "5 MB of values": ("json_schema", {"enum": ENUM}),
    "deep schema": ("json_schema", nested(5_000)),
    "deep schema without end": ("json_schema", "[" * 1_000_000),
    "deep regex": ("regex", "(" * 5_000 + "a" + ")" * 5_000),
    "deep grammar": ("ebnf", "root ::= " + "(" * 5_000 + '"a"' + ")" * 5_000),
    "deep tags": ("structural_tag", '{"format":{"type":"optional","content":' * 3_000 + "{}" + "}}" * 3_000),
    "$ref cycle": ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    "products of alternatives": (
        "json_schema",
        {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}{j}": {"type": "integer"}}} for j in range(6)]} for i in range(12)
            ]
        },
    ),
    "many choices within recursion": ("ebnf", f'root ::= {CHOICES} | "(" root ")"'),
}
# The library builds these lazily; what a mask may take is bounded too.
EITHER: dict[str, tuple[str, Any]] = {
    "regex of repetitions": ("regex", "(a{1,1000}){1,1000}"),
    "regex of repetitions of repetitions": ("regex", "((a{1,1000}){1,1000}){1,1000}"),
    "regex of many states": ("regex", "(.*a){50}.*b.{1000}"),
    "grammar of repetitions": ("ebnf", 'root ::= (("a"{1,1000}){1,1000}){1,1000}'),
    "repetitions within recursion": ("ebnf", 'root ::= "(" root ")" | (("a"{1,1000}){1,1000}){1,1000} "b" | "a" root'),
    "doubling rules": ("ebnf", rules("root ::= r0", *DOUBLING, 'r60 ::= "q"')),
    "doubling rules within recursion": ("ebnf", rules('root ::= r0 | "(" root ")"', *DOUBLING, 'r60 ::= "q"')),
    "chain of rules": ("ebnf", rules("root ::= r0", *CHAIN, 'r3000 ::= "q"')),
}


@pytest.mark.parametrize("case", [*REFUSED, *EITHER])
def test_a_bomb_is_answered_within_two_seconds_and_leaves_no_trace(warm: Bench, case: str) -> None:
    """Of processor time: what others take is no matter."""
    kind, text = (REFUSED | EITHER)[case]
    whole = text if isinstance(text, str) else json.dumps(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = warm.seconds()
    outcome = warm.wait(kind, whole)
    assert warm.seconds() - began < 2.0
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 100_000, "KiB, in the engine's process"
    if case in REFUSED:
        assert isinstance(outcome, Refused)
    if isinstance(outcome, Refused):
        assert outcome.reason and "\n" not in outcome.reason and len(outcome.reason) < 200
    else:
        with contextlib.suppress(GrammarError):  # beyond a mask's limits: an error, not a hang
            match = outcome.matcher()
            for token in b"aaaa(((":
                if token in allowed(match):
                    match.push(token)
        assert warm.seconds() - began < 2.0


SLOW = ("ebnf", rules("root ::= r0", *FAN, 'r5 ::= "a" | "a" "a" | ""'))  # takes all its time


def test_a_grammar_that_takes_too_long_does_not_delay_others(warm: Bench) -> None:
    bombs = [(SLOW[0], f"{SLOW[1]} # {i}") for i in range(3)]
    assert [warm.begin(*bomb) for bomb in bombs] == [None] * 3
    before = 0
    for i in range(5):
        assert isinstance(warm.wait("regex", f"quick{i}"), Built)
        before += not any(warm.begin(*bomb) for bomb in bombs)
    assert before, "none before the first of those that take long"
    for bomb in bombs:
        assert warm.wait(*bomb) == Refused("the grammar takes more than 1.5 seconds to build")


SLEEPY = """
import time
from radixmill.engine.grammar import builder

def sleepy(constraint, vocabulary, really=builder.to_grammar):
    time.sleep(SECONDS)
    return really(constraint, vocabulary)

builder.to_grammar = sleepy
"""


@pytest.mark.slow
def test_what_waits_for_a_core_is_not_refused(bench: Bench) -> None:
    """It is CPU time that counts: on a busy machine everything takes longer."""
    bench.code = SLEEPY.replace("SECONDS", "2.0") + BUILDER
    assert isinstance(bench.wait("regex", "a"), Built)


def test_what_does_nothing_at_all_is_refused_too(bench: Bench) -> None:
    bounds = "type=Vocabulary), builder.Bounds(patience=0.3))"
    bench.code = SLEEPY.replace("SECONDS", "60") + BUILDER.replace("type=Vocabulary))", bounds)
    assert bench.wait("regex", "a") == Refused("the grammar cannot be built within 0.3 seconds")


def test_bombs_at_once_beside_a_good_one(warm: Bench) -> None:
    """Thirteen together; a core's time is shared, and each is answered by itself."""
    bombs = [("ebnf", f"{REFUSED[name][1]} # {i}") for i, name in enumerate(["cycle", "empty loops"] * 6)]
    assert [warm.begin(*bomb) for bomb in bombs] == [None] * len(bombs)
    assert isinstance(warm.wait("regex", "good"), Built)
    assert all(isinstance(warm.wait(*bomb), Refused) for bomb in bombs)


@pytest.mark.slow
def test_slow_bombs_at_once_beside_a_good_one(warm: Bench) -> None:
    """Thirteen that take all their time: a good one behind them waits, and is built."""
    bombs = [(SLOW[0], f"{SLOW[1]} # at once {i}") for i in range(13)]
    assert [warm.begin(*bomb) for bomb in bombs] == [None] * len(bombs)
    assert isinstance(warm.wait("regex", "good behind them", 200), Built)
    refused = Refused("the grammar takes more than 1.5 seconds to build")
    assert [warm.wait(*bomb, 200) for bomb in bombs] == [refused] * len(bombs)  # kept, or once more
    assert isinstance(warm.wait("regex", "afterwards"), Built)


def test_a_grammar_that_takes_too_much_memory(bench: Bench) -> None:
    code = BUILDER.replace("import msgspec", "import msgspec\nfrom radixmill.engine.grammar.builder import Bounds", 1)
    bench.code = code.replace("type=Vocabulary))", "type=Vocabulary), Bounds(memory=8 << 20))")
    text = json.dumps({"format": {"type": "or", "elements": [{"type": "const_string", "value": "x"}] * 60_000}})
    refused = bench.wait("structural_tag", text)
    assert isinstance(refused, Refused)
    assert refused.reason in {
        "the grammar takes more than 8 MiB to build",
        "the grammar is nested too deeply to build",  # the stack is what could not grow
    }


# --- deaths


# A job that sleeps far longer than anyone waits here: neither its trial nor the builder ends by itself before that.
ASLEEP = ("regex", "asleep")
SLEEPER = SLEEPY.replace("SECONDS", "600 if constraint.text == 'asleep' else 0") + BUILDER.replace(
    "type=Vocabulary))", "type=Vocabulary), builder.Bounds(patience=600.0))"
)


@pytest.fixture
def sleeper() -> Iterator[Bench]:
    bench = Bench(code=SLEEPER, silence=Silence(starting=60.0, owing=600.0))
    assert isinstance(bench.wait("regex", "a"), Built)
    yield bench
    bench.close()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(60)


def test_a_builder_that_dies_is_replaced(bench: Bench) -> None:
    assert isinstance(bench.wait("regex", "a"), Built)
    kill(bench.processes[0])
    assert isinstance(bench.wait("regex", "b"), Built)
    assert len(bench.processes) == 2
    assert isinstance(bench.begin("regex", "a"), Built), "what was built stays"


def test_a_job_goes_to_another_builder_and_is_refused_when_that_dies_too(sleeper: Bench) -> None:
    assert sleeper.begin(*ASLEEP) is None
    children = wait_for_children(sleeper.processes[0].pid)
    kill(sleeper.processes[0])
    assert all(gone(pid) for pid in children), "a trial outlives its builder"
    until = time.monotonic() + 60
    while len(sleeper.processes) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    wait_for_children(sleeper.processes[1].pid)
    kill(sleeper.processes[1])
    assert sleeper.wait(*ASLEEP) == Refused("the grammar cannot be tried: its process died over it")
    assert isinstance(sleeper.wait("regex", "c"), Built)


def test_the_builder_ends_with_the_line(sleeper: Bench) -> None:
    assert sleeper.begin(*ASLEEP) is None
    children = wait_for_children(sleeper.processes[0].pid)
    sleeper.grammars._smith._line.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
    assert sleeper.processes[0].wait(60) is not None
    assert all(gone(pid) for pid in children)


def test_a_builder_that_cannot_be_started_refuses() -> None:
    def fail() -> tuple[socket.socket, subprocess.Popen[bytes]]:
        raise OSError("no more processes")

    bench = Bench()
    bench.grammars.close()
    bench.grammars = Grammars(fail)
    assert isinstance(bench.wait("regex", "a"), Refused)
    bench.close()


# --- builders that hang


HANGS = """
import os, signal, socket, sys
from radixmill.engine.grammar import builder
WHERE
"""
AT_ONCE = "os.kill(os.getpid(), signal.SIGSTOP)"
AT_A_JOB = "builder._Builder._intake = lambda self: os.kill(os.getpid(), signal.SIGSTOP)"
IMPATIENT = Silence(starting=60.0, owing=3.0)  # more than a busy machine keeps one waiting


@pytest.fixture
def impatient() -> Iterator[Bench]:
    bench = Bench(silence=IMPATIENT)
    yield bench
    for process in bench.processes:  # what nobody has killed
        process.kill()
    bench.close()


def test_a_builder_that_stands_still_is_killed_and_replaced(impatient: Bench) -> None:
    assert isinstance(impatient.wait("regex", "a"), Built)
    impatient.processes[0].send_signal(signal.SIGSTOP)
    assert [impatient.begin("regex", text) for text in "bc"] == [None] * 2
    assert isinstance(impatient.wait("regex", "b"), Built) and isinstance(impatient.wait("regex", "c"), Built)
    assert len(impatient.processes) == 2
    assert impatient.processes[0].returncode == -signal.SIGKILL, "it was not reaped"


def test_whoever_takes_nothing_any_more_holds_up_nobody(impatient: Bench) -> None:
    """A job of more than its socket holds, to one that stands still."""
    assert isinstance(impatient.wait("regex", "a"), Built)
    impatient.processes[0].send_signal(signal.SIGSTOP)
    assert isinstance(impatient.wait("ebnf", 'root ::= "a"' + "\n# so much" * 200_000), Built)


def test_new_jobs_do_not_excuse_a_builder_that_hangs(impatient: Bench) -> None:
    assert isinstance(impatient.wait("regex", "a"), Built)
    impatient.processes[0].send_signal(signal.SIGSTOP)
    until, number = time.monotonic() + 60, 0
    while len(impatient.processes) < 2:
        assert time.monotonic() < until, "nobody has noticed"
        impatient.begin("regex", f"number{(number := number + 1)}")
        time.sleep(0.05)


def test_a_grammar_over_which_two_builders_hang_is_refused(impatient: Bench) -> None:
    impatient.code = HANGS.replace("WHERE", AT_A_JOB) + BUILDER
    assert impatient.wait("regex", "a") == Refused("the grammar cannot be tried: its process hangs over it")
    assert len(impatient.processes) == 2
    impatient.code = BUILDER
    assert isinstance(impatient.wait("regex", "b"), Built)


def test_a_start_has_longer_but_not_for_ever() -> None:
    bench = Bench(code=SLEEPY_START + BUILDER, silence=Silence(starting=60.0, owing=1.9))  # it sleeps longer, twice
    assert isinstance(bench.wait("regex", "a"), Built) and len(bench.processes) == 1
    bench.close()
    bench = Bench(code=HANGS.replace("WHERE", AT_ONCE) + BUILDER, silence=Silence(starting=0.3, owing=20.0))
    assert bench.wait("regex", "a") == Refused("the grammar cannot be tried: its process hangs over it")
    bench.close()


SLEEPY_START = """
import time
from radixmill.engine.grammar import builder, vocabulary

def sleepy(self, really=vocabulary.Vocabulary.tokenizer):
    time.sleep(2.5)
    return really(self)

time.sleep(2.5)
vocabulary.Vocabulary.tokenizer = sleepy
"""


def test_an_idle_builder_may_say_nothing(impatient: Bench) -> None:
    assert isinstance(impatient.wait("regex", "a"), Built)
    time.sleep(IMPATIENT.owing + 0.5)
    assert isinstance(impatient.wait("regex", "b"), Built) and len(impatient.processes) == 1


def test_time_in_which_we_stood_still_ourselves_does_not_count() -> None:
    """As one that is stopped or suspended together with its builder would find it."""
    watch = Watch(10.0)
    line, now = service._Line(Mock(), Mock(), watch, able=True, sent={1: Mock()}), 0.0
    for _ in range(9):
        now += 3600.0
        service._look(line, now)
    with pytest.raises(OSError, match="said nothing for 10 s"):
        for _ in range(20):
            now += watch.interval
            service._look(line, now)


class Panic(BaseException):
    """As the library's panics are: no Exception."""


@pytest.mark.parametrize("error", [Panic, MemoryError, ValueError])
def test_what_fails_here_though_its_trial_went_well_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(service, "Start", Mock(side_effect=error))
        assert bench.wait("regex", "a") == Refused(f"building the grammar fails ({error.__name__})")
    assert isinstance(bench.wait("regex", "b"), Built)


def test_the_thread_survives_what_nobody_expects(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(bench.wait("regex", "a"), Built)
    with monkeypatch.context() as patch:
        patch.setattr(service, "decode_answer", Mock(side_effect=KeyError("who")))
        assert isinstance(bench.wait("regex", "b"), Refused)
    assert isinstance(bench.wait("regex", "c"), Built)


def test_orders_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MOST_ORDERS", 2)
    full = Refused("too many grammars are being built; try again")
    assert [bench.begin("regex", text) for text in "abca"] == [None, None, full, None]
    assert isinstance(bench.wait("regex", "a"), Built)
    assert isinstance(bench.wait("regex", "b"), Built)
    assert isinstance(bench.wait("regex", "c"), Built), "it is not kept that there was no room"


def test_who_waits_for_a_grammar_is_named_while_it_is_built(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills us then is theirs."""
    named: set[int] = set()
    at_work: dict[str, set[int]] = {}

    def building(askers: tuple[int, ...]) -> None:
        named.clear()
        named.update(askers)

    def start(tokenizer: Any, grammar: str) -> Any:
        at_work["first" if "first" in grammar else "second"] = set(named)
        return Start(tokenizer, grammar)

    monkeypatch.setattr(service, "Start", start)
    bench.grammars = Grammars(bench.open, building=building)
    for asker, text in ((1, "first"), (2, "first"), (3, "second"), (1, "first")):
        assert bench.grammars.want(constraint("regex", text), asker) is None
    assert isinstance(bench.wait("regex", "first"), Built) and isinstance(bench.wait("regex", "second"), Built)
    assert at_work == {"first": {1, 2}, "second": {3}} and not named


def wait_for_children(pid: int, limit: float = 60.0) -> list[int]:
    until = time.monotonic() + limit
    while time.monotonic() < until:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
            if found := [int(child) for child in file.read().split()]:
                return found
        time.sleep(0.005)
    raise AssertionError("no trial has begun")


def gone(pid: int, limit: float = 60.0) -> bool:
    until = time.monotonic() + limit
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


# --- what is kept


def test_what_is_asked_twice_at_once_is_built_once(bench: Bench) -> None:
    same = [bench.begin("regex", "once") for _ in range(3)]
    assert same == [None] * 3
    assert bench.grammars.stats()["building"] == 1
    first = bench.wait("regex", "once")
    assert bench.begin("regex", "once") is first
    after = Constraint(kind="regex", text="once", after="</think>")
    assert bench.grammars.want(after) is first, "where the match begins is no part of the grammar"


def test_the_least_recently_used_goes_first() -> None:
    bench = Bench(keep=Keep(entries=2))
    first = bench.wait("regex", "a")
    bench.wait("regex", "b")
    assert bench.begin("regex", "a") is first
    bench.wait("regex", "c")
    assert bench.begin("regex", "a") is first
    assert bench.grammars.stats()["grammars"] == 2
    assert bench.begin("regex", "b") is None
    bench.close()


def test_bytes_are_bounded_and_refusals_are_kept_shortly() -> None:
    bench = Bench(keep=Keep(bytes=1, refusal_seconds=2.0))
    bench.wait("regex", "a")
    bench.wait("regex", "b")
    assert bench.grammars.stats()["grammars"] == 1
    refused = bench.wait("regex", "(")
    assert bench.begin("regex", "(") is refused
    time.sleep(2.1)
    assert bench.begin("regex", "(") is None
    bench.close()


def test_closing_ends_everything() -> None:
    bench = Bench()
    bench.begin("regex", "a")
    threads = bench.grammars._thread
    bench.close()
    assert threads is not None and not threads.is_alive()
    assert all(process.returncode is not None for process in bench.processes)
    Grammars(bench.open).close()  # nothing was ever asked
    fds = len(os.listdir("/proc/self/fd"))
    Bench().close()
    assert len(os.listdir("/proc/self/fd")) == fds


# --- frames


def test_frames_are_cut_from_any_pieces() -> None:
    jobs = [Job(i, "regex", "x" * i) for i in (0, 3, 300)]
    data = b"".join(map(frame, jobs))
    for size in (1, 7, len(data)):
        frames = Frames()
        found = [body for at in range(0, len(data), size) for body in frames.push(data[at : at + size])]
        assert [msgspec.msgpack.decode(body, type=Job) for body in found] == jobs
    assert is_whole(frame(Tried(1, "x"))) and not is_whole(data) and not is_whole(data[:3])
    with pytest.raises(ValueError, match="frame of"):
        list(Frames().push(b"\xff\xff\xff\xff"))


def test_a_vocabulary_crosses_the_line() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(VOCABULARY), type=Vocabulary) == VOCABULARY
