"""The front's process: answers HTTP at once, truthfully, while tokenizer and engine are still coming up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import time
from collections.abc import Iterator

import msgspec
import uvicorn
import uvloop

from radixmill import __version__
from radixmill.core.config import Config
from radixmill.core.errors import CannotStart, EngineFailed
from radixmill.core.spec import ModelSpec
from radixmill.front.api.app import create_app
from radixmill.front.api.keys import open_keys
from radixmill.front.session import EngineView, Front, ModelText
from radixmill.front.session.open import open_session, open_text
from radixmill.link.remote import RemoteEngine
from radixmill.observe.pulse import FrontPulse
from radixmill.store import ModelFiles

log = logging.getLogger("radixmill.front")

NUMBERS = 40  # bits of a sequence's number that are its front's own count; those above tell the fronts apart
SERVING = ("ready", "draining")  # states of an engine that has said Ready and has not died since
READY = "The server is fired up and ready to roll!"  # scripts wait for this sentence


class FrontProcess:
    """One front: the HTTP server, the engine's client, and the line to the supervisor."""

    def __init__(
        self,
        config: Config,
        files: ModelFiles,
        listener: socket.socket,
        control: socket.socket,
        *,
        started: float,
        number: int,
        pulse: FrontPulse,
    ) -> None:
        self._config, self._files, self._listener, self._control, self._started = (
            config,
            files,
            listener,
            control,
            started,
        )
        self._imported = time.monotonic()
        self._pulse = pulse
        self._engine = RemoteEngine((number << NUMBERS) + 1, self._on_asked)
        self._view = EngineView(config.server.stall_timeout, lambda: self._engine.health().state in SERVING)
        self._front = Front(config=config, client=self._engine, view=self._view)
        self._server = _Server(
            uvicorn.Config(
                create_app(self._front, open_keys(config.server, lenient=number > config.server.fronts)),
                http="httptools",
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=5,
            )
        )

    def _on_asked(self, count: int) -> None:
        self._pulse.asked = count
        self._view.asked(count)

    async def run(self) -> None:
        """Until drained or until the supervisor is gone. Raises CannotStart where the tokenizer can't be loaded, or a named parser does not fit."""
        async with asyncio.TaskGroup() as tasks:
            http = tasks.create_task(self._server.serve(sockets=[self._listener]))
            line = tasks.create_task(self._follow_supervisor())
            opening = tasks.create_task(self._open())
            await http
            line.cancel()
            opening.cancel()

    async def _open(self) -> None:
        text, took = await asyncio.to_thread(self._load_text)
        try:
            spec = await self._engine.ready()
        except EngineFailed as error:
            log.error("%s", error)
            return
        session = self._front.session = open_session(self._config, self._files, text, self._engine)
        _tell(text)
        gc.collect()
        gc.freeze()
        self._report(spec, session.served[0], took)
        self._control.sendall(msgspec.json.encode({"event": "up"}) + b"\n")

    def _load_text(self) -> tuple[ModelText, float]:
        began = time.monotonic()
        return open_text(self._config, self._files), time.monotonic() - began

    def _report(self, spec: ModelSpec, served: str, tokenizer: float) -> None:
        host, port = self._listener.getsockname()[:2]
        log.info("RadixMill %s · %s · %s · %s", __version__, spec.architecture, spec.compute, spec.isa)
        for note in spec.notes:
            log.info("%s", note)
        phases = " · ".join(f"{name} {seconds:.2f}" for name, seconds in spec.phases)
        log.info("engine: %s", phases)
        log.info("front: imports %.2f · tokenizer %.2f", self._imported - self._started, tokenizer)
        shown = f"[{host}]" if ":" in host else host
        log.info(
            "%s http://%s:%d serves %s after %.2f s",
            READY,
            shown,
            port,
            served,
            time.monotonic() - self._started,
        )

    async def _follow_supervisor(self) -> None:
        # A copy: asyncio closes what it is given, and the supervisor has yet to hear why we could not start.
        reader, writer = await asyncio.open_connection(sock=self._control.dup())
        with contextlib.closing(writer):
            while line := await reader.readline():
                await self._obey(msgspec.json.decode(line))
        self._server.should_exit = True  # the supervisor is gone

    async def _obey(self, event: dict[str, object]) -> None:
        match event:
            case {"event": "engine", "path": str(path), "incarnation": int(incarnation)}:
                self._view.point(str(event.get("pulse", "")))
                await self._engine.connect(path, incarnation)
            case {"event": "failed", "detail": str(detail)}:
                self._engine.give_up(detail)
            case {"event": "died"}:
                pass
            case {"event": "drain"}:
                self._drained = asyncio.create_task(self._drain())
            case _:
                log.error("unknown word from the supervisor: %s", event)

    async def _drain(self) -> None:
        self._engine.drain()
        self._front.draining = True
        deadline = time.monotonic() + self._config.server.drain_timeout
        while self._live() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self._server.should_exit = True

    def _live(self) -> int:
        """Requests taken and not yet answered, those still being tokenised included."""
        return self._front.session.live if self._front.session else 0


def _tell(text: ModelText) -> None:
    """What was found out about the model's text."""
    for note in text.stack.notes:
        log.info("%s", note)
    log.info("%s", text.detected.line())
    for warning in text.detected.warnings:
        log.warning("%s", warning)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the supervisor decides when we stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    config: Config,
    files: ModelFiles,
    listener: socket.socket,
    control: socket.socket,
    *,
    started: float,
    number: int,
    pulse: FrontPulse,
) -> None:
    """Run a front, the `number`th of its server, until it is told to stop over `control`."""
    process = FrontProcess(config, files, listener, control, started=started, number=number, pulse=pulse)
    try:
        uvloop.run(process.run())
    except* CannotStart as group:
        raise group.exceptions[0] from None
