"""The supervisor: owns the listening socket, starts the processes, restarts those that die. No asyncio, no arrays.

    supervisor ──control──▶ front     the engine's whereabouts, drain
               ──control──▶ engine    its end of stream means: stop
               ◀─control──            phases, progress, why it cannot start
    engine     ──frames───▶ grammar   what to try (engine/grammar/builder.py); started by the engine when first needed

Children are started as fresh interpreters of this module, so nothing is inherited but the sockets named in `Boot`.
The only file, with llm.py, that knows all rooms.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from radixmill.core.config import Config
from radixmill.core.errors import CannotStart
from radixmill.core.spec import ModelSpec
from radixmill.observe import log as logs
from radixmill.store import ModelFiles

log = logging.getLogger("radixmill.supervisor")

CRASH_LIMIT = 5  # engines that die one after the other without a single token


@dataclass(frozen=True)
class Boot:
    """All that a child is told when it starts."""

    role: str
    config: Config
    model_name: str
    model_root: str
    model_sha256: str | None
    started: float  # monotonic clock when the command began; one clock for all processes of a machine
    incarnation: int = 1
    listener: int = -1  # inherited file descriptor
    vocab_size: int = 0  # of the model, and the tokens that end its answers: for the role that has no model
    eos_ids: tuple[int, ...] = ()

    @property
    def files(self) -> ModelFiles:
        return ModelFiles(self.model_name, Path(self.model_root), self.model_sha256)


@dataclass(eq=False)
class Child:
    """A process we started, and the line to it."""

    role: str
    number: int
    process: subprocess.Popen[bytes]
    control: socket.socket
    held: bytearray = field(default_factory=bytearray)
    excuse: str = ""  # why it said that it cannot start
    progressed: bool = False

    def tell(self, **event: Any) -> None:
        with contextlib.suppress(OSError):  # a child that is gone is noticed by the loop
            self.control.sendall(msgspec.json.encode(event) + b"\n")

    def heard(self) -> list[dict[str, Any]] | None:
        """What it has said since; None once the line is dead."""
        try:
            data = self.control.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return None
        self.held += data
        *lines, rest = bytes(self.held).split(b"\n")
        self.held = bytearray(rest)
        return [msgspec.json.decode(line) for line in lines]

    def reap(self, *, kill: bool = True, patience: float = 5.0) -> int:
        """Make sure that the process is gone; its exit status."""
        if not kill:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        if self.process.poll() is None:
            self.process.kill()
        self.control.close()
        return self.process.wait()


class Supervisor:
    """Runs one engine, and the front where there is one."""

    def __init__(
        self,
        config: Config,
        files: ModelFiles,
        *,
        started: float,
        front: bool = True,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`on_event` hears what a front would hear, for a client inside this process."""
        self.config, self.files, self.started = config, files, started
        self.listener = _listen(config.server.host, config.server.port) if front else None
        self._on_event = on_event
        self._folder = Path(tempfile.mkdtemp(prefix="radixmill-"))
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._children: list[Child] = []
        self._engine_event: dict[str, Any] = {}
        self._incarnations = 0
        self._spawned = {"engine": 0, "front": 0}
        self._crashes = {"engine": 0, "front": 0}  # in a row, each without having got anywhere
        self._up = {"engine": False, "front": False}  # whether one has ever come up
        self._restarts: dict[str, float] = {}  # role → when to start another
        self._stopping = 0
        self._deadline = float("inf")
        self._exit: int | None = None

    def run(self) -> int:
        """Until told to stop, or until nothing can be served. Returns the exit code.

        An engine that no longer comes up is not the end: the front goes on to say so.
        """
        try:
            self.start()
            while self._exit is None:
                self.turn()
            return self._exit
        finally:
            self.close()

    def start(self) -> None:
        self._start_engine()
        if self.listener:
            self._start_front()

    def turn(self, timeout: float | None = None) -> None:
        """Wait for the next incident and deal with it."""
        for key, _ in self._selector.select(self._patience(timeout)):
            if key.data is None:
                self._drain_wake()
            elif key.data in self._children:
                self._hear(key.data)
        for role in [role for role, at in self._restarts.items() if time.monotonic() >= at]:
            del self._restarts[role]
            self._start_engine() if role == "engine" else self._start_front()
        if self._stopping and time.monotonic() > self._deadline:
            log.warning("live requests did not finish in time; stopping all the same")
            self._exit = 0

    def stop(self, *_: object) -> None:
        """Finish live requests, then end; at the second call, at once. Safe in a signal handler and from any thread."""
        self._stopping += 1
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    def close(self) -> None:
        """End every child and remove what was made."""
        for child in self._children:
            child.reap()
        self._children.clear()
        if self.listener:
            self.listener.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _patience(self, timeout: float | None) -> float | None:
        until = min([*self._restarts.values(), self._deadline]) - time.monotonic()
        if timeout is not None:
            until = min(until, timeout)
        return None if until == float("inf") else max(until, 0.0)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(64):
                pass
        if self._stopping >= 2 or self.listener is None:
            self._exit = 0
        elif self._stopping == 1:
            log.info("finishing live requests (at most %g s); again to stop at once", self.config.server.drain_timeout)
            self._deadline = time.monotonic() + self.config.server.drain_timeout + 2.0
            self._announce({"event": "drain"})

    def _announce(self, event: dict[str, Any]) -> None:
        """Tell every front, and the client in this process if there is one."""
        for child in self._children:
            if child.role == "front":
                child.tell(**event)
        if self._on_event:
            self._on_event(event)

    def _start_engine(self) -> None:
        self._incarnations += 1
        path = self._folder / f"engine-0.{self._incarnations}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(64)
            self._spawn("engine", listener)
        self._engine_event = {"event": "engine", "path": str(path), "incarnation": self._incarnations}
        self._announce(self._engine_event)

    def _start_front(self) -> None:
        assert self.listener
        self._spawn("front", self.listener).tell(**self._engine_event)

    def _spawn(self, role: str, listener: socket.socket) -> Child:
        ours, theirs = socket.socketpair()
        boot = Boot(
            role,
            self.config,
            self.files.name,
            str(self.files.root),
            self.files.sha256,
            time.monotonic() if self._up[role] else self.started,
            self._incarnations,
            listener.fileno(),
        )
        with theirs:
            process = _start_role(role, theirs, listener)
        self._spawned[role] += 1
        child = Child(role, self._spawned[role], process, ours)
        with contextlib.suppress(OSError):  # a child that is gone already is noticed by the loop
            child.control.sendall(msgspec.json.encode(boot) + b"\n")
        self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _hear(self, child: Child) -> None:
        events = child.heard()
        if events is None:
            self._bury(child)
            return
        for event in events:
            match event:
                case {"event": "cannot_start", "message": str(message)}:
                    child.excuse = message
                case {"event": "progress"}:
                    child.progressed = True
                case {"event": "up"}:
                    self._up[child.role] = True
                    if child.role == "engine":
                        self._pin(event["tokens"], event["context"])
                    else:
                        child.progressed = True

    def _pin(self, tokens: int, context: int) -> None:
        """Later incarnations get the sizes of the first, whatever memory is free by then: records must fit again."""
        cache = replace(self.config.cache, max_total_tokens=tokens)
        model = replace(self.config.model, context_length=context)
        self.config = replace(self.config, cache=cache, model=model)

    def _bury(self, child: Child) -> None:
        """A child's line is dead: reap it, and start another unless that is pointless."""
        self._selector.unregister(child.control)
        self._children.remove(child)
        status = child.reap(kill=child.role == "engine", patience=1.0)
        if self._stopping and child.role == "front":
            self._exit = 0
            return
        cause = child.excuse or _cause(status)
        crashes = self._crashes[child.role] = 1 if child.progressed else self._crashes[child.role] + 1
        if not self._up[child.role] and (child.excuse or not child.progressed):
            self._give_up_start(child, cause)
        elif crashes >= CRASH_LIMIT:
            self._give_up(child, crashes, cause)
        else:
            log.error("%s %d died (%s); starting another", child.role, child.number, cause)
            pause = 0.0 if crashes == 1 else 0.1 * 2**crashes
            self._restarts[child.role] = time.monotonic() + pause

    def _give_up_start(self, child: Child, cause: str) -> None:
        """It never came up: what is wrong will be wrong again."""
        message = child.excuse or f"the {child.role} ended while it was starting ({cause})"
        print(f"radixmill: error: {message}", file=sys.stderr)
        self._announce({"event": "failed", "detail": message})
        self._exit = 2 if child.excuse else 1

    def _give_up(self, child: Child, crashes: int, cause: str) -> None:
        """Something that worked does so no more. Without an engine the front says so; without a front we end."""
        achieved = "a token" if child.role == "engine" else "being ready"
        detail = f"the {child.role} died {crashes} times in a row without {achieved}"
        log.error("%s (%s); not restarting it", detail, cause)
        self._engine_event = {"event": "failed", "detail": detail}
        self._announce(self._engine_event)
        if child.role == "front":
            self._exit = 1

    @property
    def engine_pid(self) -> int | None:
        """The live engine's process id; None while there is none."""
        return next((child.process.pid for child in self._children if child.role == "engine"), None)


def serve(config: Config, files: ModelFiles, started: float) -> int:
    """Run a server until a signal ends it; the exit code."""
    supervisor = Supervisor(config, files, started=started)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


def child_main(control_fd: int) -> int:
    """The other end of `Supervisor._spawn`."""
    for number in (signal.SIGINT, signal.SIGTERM):  # ^C and group-wide signals are the supervisor's business
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    boot = msgspec.json.decode(_first_line(control), type=Boot)
    logs.setup(boot.role, boot.config.server.log_level)
    try:
        _ROLES[boot.role](boot, control)
        return 0
    except CannotStart as error:
        _say(control, event="cannot_start", message=str(error))
        return 2


# Each role imports its own room: an engine needs no HTTP, a front no arrays, the supervisor neither.


def _engine_role(boot: Boot, control: socket.socket) -> None:
    from radixmill.device.executor import open_executor
    from radixmill.engine.process import serve as serve_engine

    listener = socket.socket(fileno=boot.listener)
    folder = Path(listener.getsockname()).parent
    executor = open_executor(boot.config, boot.files)
    spec = executor.spec
    _say(control, event="up", tokens=spec.kv_groups[0].pages * spec.page_size, context=spec.context)
    serve_engine(
        executor,
        executor.config,
        listener,
        watch=control,
        incarnation=boot.incarnation,
        on_progress=lambda: _say(control, event="progress"),
        open_builder=builders(boot.config, boot.files, spec),
    )
    shutil.rmtree(folder, ignore_errors=True)  # we end before the supervisor only if it was killed: it can't tidy up


def _front_role(boot: Boot, control: socket.socket) -> None:
    from radixmill.front.process import serve as serve_front

    listener = socket.socket(fileno=boot.listener)
    serve_front(boot.config, boot.files, listener, control, started=boot.started)


def _grammar_role(boot: Boot, control: socket.socket) -> None:
    from radixmill.engine.grammar import Vocabulary
    from radixmill.engine.grammar.builder import serve as serve_builder
    from radixmill.front.text import load_text

    tokenizer = load_text(boot.files, tokenizer=boot.config.model.tokenizer).tokenizer
    vocabulary = Vocabulary(
        tokens=tuple(map(tokenizer.token_bytes, range(tokenizer.vocab_size))),
        control=frozenset(tokenizer.control.values()) | tokenizer.special_ids,
        eos_ids=boot.eos_ids,
        size=boot.vocab_size,
    )
    serve_builder(control, vocabulary)


_ROLES: dict[str, Callable[[Boot, socket.socket], None]] = {
    "engine": _engine_role,
    "front": _front_role,
    "grammar": _grammar_role,
}


def builders(config: Config, files: ModelFiles, spec: ModelSpec) -> Callable[[], socket.socket]:
    """What starts a process that tries grammars for a model, and gives the line to it."""
    boot = Boot(
        "grammar",
        config,
        files.name,
        str(files.root),
        files.sha256,
        time.monotonic(),
        vocab_size=spec.vocab_size,
        eos_ids=spec.eos_ids,
    )
    return _Builders(boot).open


class _Builders:
    """Starts the processes that try grammars, one after the other; each ends with its line, or with us."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> socket.socket:
        """Start one; the line to it. Raises OSError where it can't be."""
        if self._process:  # its line is dead
            self._process.kill()
            self._process.wait()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _start_role(self._boot.role, theirs)
        ours.sendall(msgspec.json.encode(self._boot) + b"\n")
        return ours


def _start_role(role: str, line: socket.socket, *listeners: socket.socket) -> subprocess.Popen[bytes]:
    """A fresh interpreter of this module at the other end of `line`."""
    return subprocess.Popen(
        [sys.executable, "-m", "radixmill.launch", role, str(line.fileno())],  # the role is for whoever reads ps
        pass_fds=(line.fileno(), *(listener.fileno() for listener in listeners)),
        stdin=subprocess.DEVNULL,
        env=_child_environment(),
    )


def _say(control: socket.socket, **event: Any) -> None:
    with contextlib.suppress(OSError):
        control.setblocking(True)
        control.sendall(msgspec.json.encode(event) + b"\n")


def _first_line(control: socket.socket) -> bytes:
    """The first line, and not a byte more: what follows is the role's to read."""
    while True:
        seen = control.recv(1 << 20, socket.MSG_PEEK)
        if not seen:
            raise SystemExit(1)
        if b"\n" in seen:
            return control.recv(seen.index(b"\n") + 1)
        time.sleep(0.001)


def _child_environment() -> dict[str, str]:
    """NumPy's own thread pools would only fight ours; children must find the package as we did."""
    here = str(Path(__file__).resolve().parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket. Raises CannotStart where the address can't be had."""
    last: OSError | None = None
    for family, kind, proto, _, address in _addresses(host, port):
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
            return listener
        except OSError as error:
            listener.close()
            last = error
    in_use = last is not None and last.errno in (98, 48)
    reason = "is already in use" if in_use else f"cannot be opened ({last.strerror if last else 'no address'})"
    hint = "Stop the other server, or choose another with --port" if in_use else "Check --host and --port"
    raise CannotStart(f"{host}:{port} {reason}", hint)


def _addresses(host: str, port: int) -> Iterator[tuple[Any, ...]]:
    try:
        yield from socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotStart(f"the address {host!r} is unknown ({error.strerror})", "Check --host") from None


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


if __name__ == "__main__":
    sys.exit(child_main(int(sys.argv[2])))
