"""The engine's grammars: tried in a sacrificial process, built once, kept for a while.

    engine's thread                background thread                    builder (another process)
    want() ── order ─────────────▶ sends a job ───────────────────────▶ tries it
    poll() ◀── built | refused ─── builds it here too ◀──────────────── says that it can be built, or why not
    wake   ◀── a byte

The engine's thread never waits: `want` says None until it is known, and `wake` becomes readable then. A builder that dies
or hangs is replaced, and the next is asked for what this one owed.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import subprocess
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import llguidance

from radixmill.core.request import Constraint, ConstraintKind
from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.frames import Able, Hello, Job, Refusal, Tried, decode_answer, frame
from radixmill.engine.grammar.matcher import Matcher, Start
from radixmill.engine.grammar.vocabulary import Vocabulary
from radixmill.observe.watch import Watch
from radixmill.sacrifice.forks import Bounds
from radixmill.sacrifice.frames import Frames

log = logging.getLogger("radixmill.engine")

Key = tuple[ConstraintKind, str]
OpenBuilder = Callable[[], tuple[socket.socket, subprocess.Popen[bytes]]]
Building = Callable[[tuple[int, ...]], None]

_CHUNK = 1 << 20
_TRIES = 2  # builders that may die or hang over one job
_REAPED = 2.0  # seconds that a process has to end; one that the disk holds takes longer, and nobody waits for it
_MOST_ORDERS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A grammar ready for use. `cost`: bytes it takes, about."""

    vocabulary: Vocabulary
    tokenizer: llguidance.LLTokenizer
    start: Start
    cost: int

    def matcher(self, output: Iterable[int] = (), ends: frozenset[int] = frozenset(), after: str = "") -> Matcher:
        """The state of a sequence that has said `output`. `ends`: the tokens that end it; `after`: the constraint's."""
        return Matcher(self.vocabulary, self.start, after=after, ends=ends, output=output)


@dataclass(frozen=True, slots=True)
class Refused:
    """A constraint that can't be had, why, and which place of it is at fault ("": none in particular)."""

    reason: str
    place: str = ""


@dataclass(frozen=True)
class Keep:
    """How much is kept. A refusal is kept for `refusal_seconds`."""

    entries: int = 256
    bytes: int = 256 << 20
    refusal_seconds: float = 10.0


@dataclass(frozen=True)
class Silence:
    """Seconds without a word after which a builder hangs, those left out in which we did not run ourselves: while it starts,
    and while it owes an answer. Every trial ends within the builder's own patience."""

    starting: float = 60.0
    owing: float = Bounds.patience + 4.0


class Grammars:
    """All grammars of one engine. All methods are for the engine's thread."""

    def __init__(
        self,
        open_builder: OpenBuilder,
        keep: Keep | None = None,
        silence: Silence | None = None,
        building: Building = lambda askers: None,
    ) -> None:
        """`open_builder` starts a process of `builder.serve`; it gives the line to it, and the process, which is ours then.
        Called when first needed. `building` hears, from the background thread, who waits for what it is about to build, and
        nobody when that is done."""
        self.wake, self._waker = socket.socketpair()
        self.wake.setblocking(False)
        self._waker.setblocking(False)
        self._cache = _Cache(keep or Keep())
        self._ordered: dict[Key, set[int]] = {}  # and who waits for it
        self._building = building
        self._done: deque[tuple[Key, Built | Refused]] = deque()
        self._smith = _Smith(open_builder, self._finished, self._begun, silence or Silence())
        self._thread: threading.Thread | None = None

    def want(self, constraint: Constraint, asker: int | None = None) -> Built | Refused | None:
        """The constraint's grammar, or why there is none; None while it is being built. `asker`: the sequence, or the
        question, that is to blame if that kills us."""
        key = (constraint.kind, constraint.text)
        found = self._cache.get(key)
        if found is None and key not in self._ordered:
            if len(self._ordered) >= _MOST_ORDERS:
                return Refused("too many grammars are being built; try again")
            self._ordered[key] = set()
            self._order(key)
        if found is None and asker is not None:
            self._ordered[key].add(asker)  # long before it is built: it is tried first
        return found

    def poll(self) -> None:
        """Take in what has been finished; afterwards `wake` is silent."""
        with contextlib.suppress(BlockingIOError):
            while self.wake.recv(4096):
                pass
        while self._done:
            key, outcome = self._done.popleft()
            self._ordered.pop(key, None)
            self._cache.put(key, outcome)

    def stats(self) -> dict[str, int]:
        """Grammars kept, bytes they take, and how many are being built."""
        return {"grammars": len(self._cache), "grammar_bytes": self._cache.bytes, "building": len(self._ordered)}

    def close(self) -> None:
        """End the builder and the thread."""
        self._smith.stop()
        if self._thread:
            self._thread.join()
        self._smith.close()
        self.wake.close()
        self._waker.close()

    def _order(self, key: Key) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._smith.run, name="grammars", daemon=True)
            self._thread.start()
        self._smith.order(key)

    def _begun(self, key: Key) -> None:
        """From the background thread."""
        self._building(tuple(self._ordered.get(key, ())))

    def _finished(self, key: Key, outcome: Built | Refused) -> None:
        """From the background thread."""
        self._building(())
        self._done.append((key, outcome))
        with contextlib.suppress(OSError):  # full: it is readable as it is
            self._waker.send(b"!")


class _Cache:
    """Least recently used goes first."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._held: OrderedDict[Key, tuple[Built | Refused, int, float]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Built | Refused | None:
        if key not in self._held:
            return None
        outcome, _, until = self._held[key]
        if time.monotonic() > until:
            self._drop(key)
            return None
        self._held.move_to_end(key)
        return outcome

    def put(self, key: Key, outcome: Built | Refused) -> None:
        built = isinstance(outcome, Built)
        until = float("inf") if built else time.monotonic() + self._keep.refusal_seconds
        cost = len(key[1]) + (outcome.cost if isinstance(outcome, Built) else 0)
        self._drop(key)
        self._held[key] = outcome, cost, until
        self.bytes += cost
        while len(self._held) > self._keep.entries or (self.bytes > self._keep.bytes and len(self._held) > 1):
            self._drop(next(iter(self._held)))

    def _drop(self, key: Key) -> None:
        if key in self._held:
            self.bytes -= self._held.pop(key)[1]


@dataclass(eq=False)
class _Order:
    """A job on its way. `deaths`: builders that died, or hung, while they had it."""

    job: Job
    deaths: int = 0

    @property
    def key(self) -> Key:
        return self.job.kind, self.job.text


@dataclass(eq=False)
class _Line:
    """The line to a living builder. `up`: it has said its Hello; `able`: it tries what it is sent."""

    sock: socket.socket
    process: subprocess.Popen[bytes]
    watch: Watch
    up: bool = False
    able: bool = False
    heard: int = 0  # words of the builder
    frames: Frames = field(default_factory=Frames)
    sent: dict[int, _Order] = field(default_factory=dict)
    out: bytearray = field(
        default_factory=bytearray
    )  # not sent yet: whoever hangs takes nothing, and nobody waits for it

    @property
    def busy(self) -> bool:
        """It is to say something."""
        return bool(self.sent) or not self.able

    def end(self, *, hung: bool = False) -> None:
        """End the process and reap it: without its line it ends by itself, and its forks first; a hung one is killed."""
        with contextlib.suppress(OSError):
            self.sock.close()
        if not hung:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_REAPED)
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAPED)


class _Smith:
    """The background thread: talks to the builder, replaces it where it dies or hangs, and builds what it found harmless."""

    def __init__(
        self,
        open_builder: OpenBuilder,
        finished: Callable[[Key, Built | Refused], None],
        begun: Callable[[Key], None],
        silence: Silence,
    ) -> None:
        """`begun`: a grammar is about to be built here."""
        self._open, self._finished, self._begun, self._silence = open_builder, finished, begun, silence
        self._orders: deque[_Order] = deque()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._numbers = 0
        self._stopping = False
        self._line: _Line | None = None
        self._vocabulary: Vocabulary | None = None
        self._tokenizer: llguidance.LLTokenizer | None = None

    def order(self, key: Key) -> None:
        """From any thread."""
        self._numbers += 1
        self._orders.append(_Order(Job(self._numbers, *key)))
        self._ringer.send(b"!")

    def stop(self) -> None:
        """From any thread: `run` returns soon."""
        self._stopping = True
        self._ringer.send(b"!")

    def close(self) -> None:
        """After `run` has returned."""
        for sock in (self._bell, self._ringer):
            sock.close()
        if self._line:
            self._line.end()

    def run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except (OSError, EOFError) as error:
                self._bury(error)
            except Exception as error:  # whatever it is, others wait for this thread
                log.exception("the thread that builds grammars stumbled")
                self._bury(error)

    def _turn(self) -> None:
        """Wait for an order or an answer and deal with it. Raises where the builder is gone, or hangs."""
        if self._orders and self._line is None:
            self._line = self._start()
        if self._line and self._line.up:
            self._send(self._line)
        for key, events in self._wait(self._line):
            if not key.data:
                self._bell.recv(4096)
            elif events & selectors.EVENT_READ:
                self._hear(key.data)
        if self._line:  # afterwards: what it has said while we were away counts
            _look(self._line, time.monotonic())

    def _start(self) -> _Line:
        sock, process = self._open()
        sock.setblocking(False)
        return _Line(sock, process, Watch(self._silence.starting))

    def _wait(self, line: _Line | None) -> list[tuple[selectors.SelectorKey, int]]:
        """For what is said to us, or for room to say something; not for long while the builder is to say something."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            if line:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.out else 0)
                selector.register(line.sock, events, line)
            return selector.select(line.watch.interval if line and line.busy else None)

    def _send(self, line: _Line) -> None:
        """What there is room for; the rest when there is more."""
        while self._orders:
            order = self._orders.popleft()
            line.sent[order.job.id] = order
            line.out += frame(order.job)
        with contextlib.suppress(BlockingIOError):
            while line.out:
                del line.out[: line.sock.send(line.out)]

    def _hear(self, line: _Line) -> None:
        data = line.sock.recv(_CHUNK)
        if not data:
            raise EOFError("the process ended")
        line.heard += 1
        for body in line.frames.push(data):
            match decode_answer(body):
                case Hello(vocabulary):
                    line.up = True
                    self._send(line)  # it builds its own tokenizer while we build ours
                    self._learn(vocabulary)
                case Able():
                    line.able, line.watch = True, Watch(self._silence.owing)
                case Refusal(0, reason):
                    self._refuse(line, reason)
                case Refusal(number, reason, place):
                    self._finished(line.sent.pop(number).key, Refused(reason, place))
                case Tried(number, grammar, cost):
                    key = line.sent.pop(number).key
                    self._begun(key)
                    self._finished(key, self._build(grammar, cost))

    def _learn(self, vocabulary: Vocabulary) -> None:
        if vocabulary != self._vocabulary:
            self._vocabulary, self._tokenizer = vocabulary, vocabulary.tokenizer()

    def _build(self, grammar: str, cost: int) -> Built | Refused:
        assert self._vocabulary and self._tokenizer
        try:
            return Built(self._vocabulary, self._tokenizer, Start(self._tokenizer, grammar), cost + len(grammar))
        except GrammarError as error:
            return Refused(error.reason, error.place)
        except BaseException as error:  # the library's panics are no Exceptions, and whoever waits must hear of them
            log.warning("building a grammar failed", exc_info=error)
            return Refused(f"building the grammar fails ({type(error).__name__})")

    def _refuse(self, line: _Line, reason: str) -> None:
        """The builder can try nothing, and ends: the next grammar has another try."""
        orders = [*line.sent.values(), *self._orders]
        line.sent.clear()
        self._orders.clear()
        for order in orders:
            self._finished(order.key, Refused(reason))

    def _bury(self, error: Exception) -> None:
        """The builder is gone, or hangs: its jobs go to another, except those over which two have gone that way."""
        orders = list(self._orders)
        self._orders.clear()
        if self._line:
            log.warning("the process that tries grammars is gone (%s)", error)
            line, self._line = self._line, None
            line.end(hung=isinstance(error, _Hangs))
            orders = [*line.sent.values(), *orders]
        end = "hangs" if isinstance(error, _Hangs) else "died"
        for order in orders:
            order.deaths += 1
            if order.deaths < _TRIES:
                self._orders.append(order)
            else:
                self._finished(order.key, Refused(f"the grammar cannot be tried: its process {end} over it"))


class _Hangs(OSError):
    """A builder says nothing any more."""


def _look(line: _Line, now: float) -> None:
    """Raises _Hangs."""
    if line.watch.look(line.heard, line.busy, now):
        raise _Hangs(f"it has said nothing for {line.watch.patience:g} s")
