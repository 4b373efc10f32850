"""Chat templates that come with requests: rendered in a process that may die of them. docs/security.md says what holds them.

    front ──a socket of its own for each──▶ host ──fork──▶ child: template, messages → text, or why not
          ◀───────────────────────────────── one frame of JSON ──┘   or killed: too much memory, too much time

The host is a fresh interpreter (guest_host.py), started when first needed. It inherits the line to us and nothing else. A
request that is over closes its socket: then the host kills the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.front.dialects import FAMILIES, Dialect, Thoughts
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.session.ask import ChatPrompt
from radixmill.front.session.detect import Detected
from radixmill.front.session.text import ModelText
from radixmill.front.text import Rendered
from radixmill.sacrifice.forks import CHUNK, Bounds, Fate
from radixmill.sacrifice.frames import MAX_FRAME, Frames, framed

log = logging.getLogger("radixmill.front")

BOUNDS = Bounds(seconds=1.5, patience=2.0)
MAX_ANSWER = 16 << 20  # bytes of a rendered text, as JSON
HOST = (sys.executable, "-P", "-m", "radixmill.front.session.guest_host")
_STARTS = 30.0  # seconds until a host must be there
_GRACE = 2.0  # seconds after which a host that does not end a child is hung itself
_TRIES = 2  # hosts that may die over one template
# Templates may ask what day it is, which must be the same for all processes; and the interpreter must be found as ours was.
_KEPT = ("TZ", "TZDIR", "LANG", "LC_ALL", "LC_TIME", "LD_LIBRARY_PATH", "PYTHONHOME")


class Spoken(Struct, frozen=True):
    """A dialect, to be told to another process: by the names of its families."""

    around: str
    calls: str  # "": none are read
    think: Thoughts | None


class Facts(Struct, frozen=True):
    """What the host is told of the model: first, and once."""

    control: tuple[str, ...]
    added: tuple[str, ...]
    variables: dict[str, str]
    template_kwargs: dict[str, Any]
    spoken: Spoken
    generic: bool
    bounds: Bounds


class Job(Struct, frozen=True):
    """Render this conversation with this template."""

    template: str
    chat: ChatPrompt


class Made(Struct, tag=True, frozen=True):
    """See chat.Rendered."""

    text: str
    mark: str


class Refused(Struct, tag=True, frozen=True):
    """`param`: the field at fault; None: the one of the conversation."""

    message: str
    param: str | None


class Broken(Struct, tag=True, frozen=True):
    """The template is at fault, without more being known of why."""

    why: str


class Lost(Struct, tag=True, frozen=True):
    """The child ended without an answer."""

    fate: Fate


Answer = Made | Refused | Broken | Lost
_decode = msgspec.json.Decoder(Answer).decode


class _HostGone(Exception):
    """It died."""


class Guests:
    """Renders guests' templates for one model. Of one event loop at a time."""

    def __init__(self, text: ModelText, bounds: Bounds = BOUNDS, host: tuple[str, ...] = HOST) -> None:
        self._text, self._bounds, self._host = text, bounds, host
        self._turns = asyncio.Semaphore(bounds.at_once)
        self._starting = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    async def rendered(self, template: str, chat: ChatPrompt, field: str, param: str) -> Rendered:
        """The conversation, as the template has it. Raises BadRequest, in the words of `field`, which has the messages, or
        `param`, which has the template."""
        job = msgspec.json.encode(Job(template, chat))
        if len(job) > MAX_FRAME:
            raise BadRequest(f"{field}: with {param}, they may have {MAX_FRAME >> 20} MiB at most.", param=field)
        match await self._answer(job):
            case Made(text, mark):
                return Rendered(text, mark)
            case Refused(message, None):
                raise BadRequest(f"{field}: {message}.", param=field)
            case Refused(message, at):
                raise BadRequest(message, param=at)
            case Broken(why):
                raise BadRequest(f"{param} can't be used: {why.rstrip('.')}.", param=param)
            case Lost(fate):
                raise BadRequest(f"{param} can't be rendered: {self._verdict(fate)}.", param=param)

    def encode(self, rendered: Rendered) -> list[int]:
        return self._text.encode_rendered(rendered)

    def close(self) -> None:
        """End the host and its children."""
        line, process = self._line, self._process
        self._line = self._process = None
        if line:
            line.close()
        if process:
            process.kill()
            process.wait()

    async def _answer(self, job: bytes) -> Answer:
        async with self._turns:
            for _ in range(_TRIES):
                with contextlib.suppress(OSError, _HostGone):
                    return await self._ask(job)
        return Lost("killed")

    async def _ask(self, job: bytes) -> Answer:
        """Raises OSError or _HostGone where the host is gone: then another may do it."""
        line = await self._up()
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    socket.send_fds(line, [b"+"], [theirs.fileno()])
                ours.setblocking(False)
                async with asyncio.timeout(self._bounds.patience + _GRACE):
                    await asyncio.get_running_loop().sock_sendall(ours, framed(job))
                    return await _heard(ours)
            except TimeoutError:
                self._bury(line, "it hangs")
                return Lost("late")
            except (OSError, _HostGone) as error:
                self._bury(line, str(error) or "it ended")
                raise _HostGone from None

    def _bury(self, line: socket.socket, why: str) -> None:
        """Once: whoever asked the same host finds another."""
        if line is self._line:
            log.warning("the process that renders requests' templates is gone (%s)", why)
            self.close()

    async def _up(self) -> socket.socket:
        """The line to a host that is ready. Raises OSError."""
        async with self._starting:
            if self._line is None:
                line, self._process = await asyncio.to_thread(self._start)
                self._line = line
            return self._line

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*self._host, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
            )
        try:
            ours.settimeout(_STARTS)
            ours.sendall(framed(msgspec.json.encode(facts_of(self._text, self._bounds))))
            if not ours.recv(1):
                raise ConnectionError("it did not start")
        except BaseException:
            process.kill()
            process.wait()
            ours.close()
            raise
        return ours, process

    def _verdict(self, fate: Fate) -> str:
        match fate:
            case "late":
                return f"it takes longer than {self._bounds.patience:g} seconds"
            case "slow":
                return f"it takes more than {self._bounds.seconds:g} seconds to compute"
            case "deep":
                return "it is nested too deeply"
            case "memory":
                return f"it takes more than {self._bounds.memory >> 20} MiB of memory"
            case "killed":
                return "its process died over it"


async def _heard(sock: socket.socket) -> Answer:
    """The one frame that comes. Raises _HostGone where none does."""
    frames, size, loop = Frames(), 0, asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, CHUNK):
        if (size := size + len(data)) > MAX_ANSWER:
            return Broken(f"it makes a text of more than {MAX_ANSWER >> 20} MiB")
        try:
            for body in frames.push(data):
                return _checked(_decode(body))
        except ValueError:  # whatever a child says that is none of ours any more
            return Lost("killed")
    raise _HostGone


def _checked(answer: Answer) -> Answer:
    """Raises ValueError."""
    if isinstance(answer, Made) and len(answer.mark) > 1:
        raise ValueError("a mark is a character")
    return answer


def _environment() -> dict[str, str]:
    """Nothing of ours that is secret."""
    here = str(Path(__file__).resolve().parents[3])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


# A model as the host gets to know it.


def facts_of(text: ModelText, bounds: Bounds) -> Facts:
    tokenizer, template = text.stack.tokenizer, text.template
    return Facts(
        control=tuple(tokenizer.control),
        added=tuple(added.literal for added in tokenizer.added),
        variables=template.variables if template else {},
        template_kwargs=text.template_kwargs,
        spoken=_spoken(text.dialect),
        generic=text.detected.generic,
        bounds=bounds,
    )


_ALL: tuple[type[Dialect], ...] = (Dialect, *FAMILIES)
_KINDS = {kind.__name__: kind for kind in _ALL}


def _spoken(dialect: Dialect) -> Spoken:
    if isinstance(dialect.calls, Unread):
        return Spoken(type(dialect).__name__, "", dialect.think)
    calls = next(name for name, kind in _KINDS.items() if kind.calls == dialect.calls)
    return Spoken(type(dialect).__name__, calls, dialect.think)


def detected_of(facts: Facts) -> Detected:
    spoken = facts.spoken
    calls = _KINDS[spoken.calls].calls if spoken.calls else Unread()
    return Detected(_KINDS[spoken.around](spoken.think, calls), "", "", generic=facts.generic)
