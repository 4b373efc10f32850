"""The front's process: answers HTTP at once, truthfully, while tokenizer and engine are still coming up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import uvicorn
import uvloop

from radixmill import __version__
from radixmill.core.config import LAST_WORDS, Config
from radixmill.core.errors import CannotStart, NotReady
from radixmill.core.spec import Identity, ModelSpec
from radixmill.front.api.app import create_app
from radixmill.front.api.keys import open_keys
from radixmill.front.api.protocol import protocol_factory
from radixmill.front.models import LOOK, Model, Models
from radixmill.front.session import Front, ModelText
from radixmill.observe.pulse import FrontPulse
from radixmill.store import ModelFiles

log = logging.getLogger("radixmill.front")

NUMBERS = 40  # bits of a sequence's number that are its front's own count; those above tell the fronts apart
BEAT = 0.5  # seconds between signs of life, of which the supervisor misses many before it kills
LINE = 1 << 24  # bytes of one word from the supervisor, who may name thousands of sequences
READY = "The server is fired up and ready to roll!"  # scripts wait for this sentence


@dataclass(frozen=True)
class Begin:
    """How a front begins: the `number`th of its server, on `deployment`. `control`: its line to the supervisor."""

    config: Config
    files: ModelFiles
    listener: socket.socket
    control: socket.socket
    started: float  # monotonic clock when the command began
    number: int
    deployment: int
    pulse: FrontPulse
    earlier: Identity | None = None  # what the engines of the deployment have served


class FrontProcess:
    """One front: the HTTP server, the models it has, and the line to the supervisor."""

    def __init__(self, begin: Begin) -> None:
        config, number = begin.config, begin.number
        self._config, self._files, self._started = config, begin.files, begin.started
        self._listener, self._control, self._pulse = begin.listener, begin.control, begin.pulse
        self._imported = time.monotonic()
        self._address = begin.listener.getsockname()[:2]  # the server may close it before we are open
        self._front = Front(config=config)
        self._models = Models(self._front, self._say, self._pulse, number << NUMBERS)
        self._first, self._earlier = begin.deployment, begin.earlier
        self._until = float("inf")  # monotonic clock: when live requests must have finished
        self._writer: asyncio.StreamWriter | None = None  # to the supervisor, once we follow it
        self._draining: asyncio.Task[None] | None = None
        self._on_all_up: Callable[[], None] | None = None
        self._server = _Server(
            uvicorn.Config(
                create_app(self._front, open_keys(config.server, lenient=number > config.server.fronts)),
                http=protocol_factory(config.server),  # type: ignore[arg-type]
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(config.server.keep_alive_timeout),
                timeout_graceful_shutdown=5,
            )
        )

    def _say(self, **event: Any) -> None:
        line = msgspec.json.encode(event) + b"\n"
        if self._writer:  # asyncio has made the line one that does not block: it keeps what does not fit at once
            self._writer.write(line)
            return
        with contextlib.suppress(OSError):  # a supervisor that is gone is noticed elsewhere
            self._control.sendall(line)

    async def run(self) -> None:
        """Until drained or until the supervisor is gone. Raises CannotStart where the tokenizer can't be loaded, or a named parser does not fit."""
        first = self._models.begin(self._first, self._config, self._files, self._earlier)
        async with asyncio.TaskGroup() as tasks:
            http = tasks.create_task(self._server.serve(sockets=[self._listener]))
            line = tasks.create_task(self._follow_supervisor())
            opening = tasks.create_task(self._open(first))
            beating = tasks.create_task(self._beat())
            await http
            for task in (line, opening, beating):
                task.cancel()

    async def _beat(self) -> None:
        """Show the supervisor that the event loop turns."""
        while True:
            self._pulse.beat()
            await asyncio.sleep(BEAT)

    async def _open(self, first: Model) -> None:
        if not await self._models.open(first):
            return
        text, took, _ = first.text.result()
        _tell(text)
        gc.collect()
        gc.freeze()
        assert first.session and first.client.spec
        self._on_all_up = partial(self._report, first.client.spec, first.session.served[0], took)

    def _report(self, spec: ModelSpec, served: str, tokenizer: float) -> None:
        host, port = self._address
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
        reader, writer = await asyncio.open_connection(sock=self._control.dup(), limit=LINE)
        self._writer = writer
        with contextlib.closing(writer):
            while line := await reader.readline():
                await self._obey(msgspec.json.decode(line))
        self._server.should_exit = True  # the supervisor is gone

    async def _obey(self, event: dict[str, Any]) -> None:
        models = self._models
        match event:
            case {"event": "engine", "deployment": int(number)}:
                await models.engine(number, event)
            case {"event": "failed", "deployment": int(number), "detail": str(detail)}:
                models.failed(number, detail)
            case {"event": "died", "deployment": int(number), "struck": list(struck)}:
                models.died(number, struck)
            case {"event": "prepare"}:
                models.prepare(event)
            case {"event": "switch", "deployment": int(number)}:
                models.switch(number)
            case {"event": "forget", "deployment": int(number)}:
                models.forget(number)
            case {"event": "ended", "deployment": int(number)}:
                models.ended(number)
            case {"event": "hold", "order": str(order)}:
                models.hold(order)
            case {"event": "resume"}:
                models.resume()
            case {"event": "deployed", "order": str(order)}:
                models.deployed(order, event)
            case {"event": "all_up"}:  # we are the last: now every connection finds a front that serves
                if self._on_all_up:
                    self._on_all_up()
            case {"event": "drain"}:
                self._drain(float(event["seconds"]))
            case _:
                log.error("unknown word from the supervisor: %s", event)

    def _drain(self, seconds: float) -> None:
        """Finish what runs within so many seconds; said again, within fewer."""
        self._until = time.monotonic() + seconds
        if self._draining is None:
            self._front.draining = True
            self._models.drain()
            self._draining = asyncio.create_task(self._end())

    async def _end(self) -> None:
        while not self._models.idle and time.monotonic() < self._until:
            await asyncio.sleep(LOOK)
        self._models.interrupt(NotReady("The server is shutting down.", code="shutting_down", retry_after=5.0))
        until = time.monotonic() + LAST_WORDS
        while not self._models.idle and time.monotonic() < until:
            await asyncio.sleep(LOOK)
        self._server.should_exit = True


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


def serve(begin: Begin) -> None:
    """Run a front until it is told to stop over its line to the supervisor."""
    process = FrontProcess(begin)
    try:
        uvloop.run(process.run())
    except* CannotStart as group:
        raise group.exceptions[0] from None
