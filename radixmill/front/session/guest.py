"""Chat templates that come with requests: rendered in a process that may die of them. docs/security.md says what holds them.

    front ──a socket of its own for each──▶ host ──fork──▶ child: template, messages → text, or why not
          ◀───────────────────────────────── one frame of JSON ──┘   or killed: too much memory, too much time

The host is a fresh interpreter (guest_host.py), started when first needed. It inherits the line to us and nothing else. A
request that is over closes its socket: then the host kills the child.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from radixmill.core.errors import BadRequest, NotReady
from radixmill.front.dialects import FAMILIES, Dialect, Thoughts
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.session.ask import ChatPrompt
from radixmill.front.session.detect import Detected
from radixmill.front.session.text import ModelText
from radixmill.front.session.turns import Turns
from radixmill.front.text import Rendered
from radixmill.sacrifice.forks import CHUNK, Bounds, Fate
from radixmill.sacrifice.frames import MAX_FRAME, Frames, framed

log = logging.getLogger("radixmill.front")

BOUNDS = Bounds(
    seconds=1.5,
    patience=6.0,
    at_once=max(1, len(os.sched_getaffinity(0)) // 2) if hasattr(os, "sched_getaffinity") else 1,
    nice=15,  # below grammars, too: an engine waits for those
    answer=0,  # it goes to whoever asked
    sealed=True,
)
MAX_ANSWER = 16 << 20  # bytes of a rendered text, as JSON
HOST = (sys.executable, "-P", "-m", "radixmill.front.session.guest_host")
_STARTS = 30.0  # seconds until a host must be there
_GRACE = 2.0  # seconds after which a host that does not end a child is hung itself
_TRIES = 2  # hosts that may die over one template
_DYING = 0.2  # seconds that a host may take to end: its sockets do not all close at once
_RETRY_AFTER = 2.0  # seconds, where the fault is ours
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


class Short(Struct, tag=True, frozen=True):
    """There was no process to be had for it."""

    why: str


Answer = Made | Refused | Broken | Lost | Short
_decode = msgspec.json.Decoder(Answer).decode


class _HostGone(Exception):
    """It died over what it was asked, or was asked by others."""


class _NoHost(Exception):
    """There is none to be had, which is no template's fault."""


class Guests:
    """Renders guests' templates for one model. Of one event loop at a time."""

    def __init__(self, text: ModelText, bounds: Bounds = BOUNDS, host: tuple[str, ...] = HOST) -> None:
        self._text, self._bounds, self._host = text, bounds, host
        self._turns = Turns(bounds.at_once)
        self._starting: asyncio.Future[None] | None = None
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    async def rendered(self, template: str, chat: ChatPrompt, field: str, param: str, owner: str = "") -> Rendered:
        """The conversation, as the template has it. Raises BadRequest, in the words of `field`, which has the messages, or
        `param`, which has the template; NotReady where it is not their fault."""
        job = msgspec.json.encode(Job(template, chat))
        if len(job) > MAX_FRAME:
            raise BadRequest(f"{field}: with {param}, they may have {MAX_FRAME >> 20} MiB at most.", param=field)
        match await self._answer(job, owner):
            case Made(text, mark):
                return Rendered(text, mark)
            case Refused(message, None):
                raise BadRequest(f"{field}: {message}.", param=field)
            case Refused(message, at):
                raise BadRequest(message, param=at)
            case Broken(why):
                raise BadRequest(f"{param} can't be used: {why.rstrip('.')}.", param=param)
            case Lost("late"):  # and yet it has not used up its CPU time, which would have ended it
                raise NotReady(
                    f"{param} was not rendered within {self._bounds.patience:g} seconds: the server is busy. Try again"
                    " later.",
                    param=param,
                    retry_after=_RETRY_AFTER,
                )
            case Lost(fate):
                raise BadRequest(f"{param} can't be rendered: {self._verdict(fate)}.", param=param)
            case Short(why):
                log.warning("no process can be had to render a request's template (%s)", why)
                raise NotReady(
                    f"The server can't render {param} now. Try again later.", param=param, retry_after=_RETRY_AFTER
                )

    def encode(self, rendered: Rendered) -> list[int]:
        return self._text.encode_rendered(rendered)

    def close(self) -> None:
        """End the host and its children, for good."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        line, process = self._line, self._process
        self._line = self._process = None
        if line:
            line.close()
        if process:
            process.kill()
            process.wait()

    async def _answer(self, job: bytes, owner: str) -> Answer:
        async with self._turns.of(owner):
            for _ in range(_TRIES):
                try:
                    return await self._ask(job)
                except _HostGone:
                    continue
                except (OSError, _NoHost) as error:
                    return Short(str(error))
        return Lost("killed")

    async def _ask(self, job: bytes) -> Answer:
        """Raises _HostGone where the host is: then another may do it; OSError or _NoHost where none can be asked."""
        line = await self._up()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._send(line, theirs)
            ours.setblocking(False)
            try:
                async with asyncio.timeout(self._bounds.patience + _GRACE):
                    await asyncio.get_running_loop().sock_sendall(ours, framed(job))
                    return await _heard(ours)
            except TimeoutError:
                self._bury(line, "it hangs")
                return Lost("late")
            except EOFError:
                return Lost("killed")
            except OSError:
                pass
        if await _lives(line):
            return Lost("killed")  # its child has closed what was to carry the answer
        self._bury(line, "it ended")
        raise _HostGone

    def _send(self, line: socket.socket, theirs: socket.socket) -> None:
        """Hand the host a socket. Raises _HostGone."""
        try:
            socket.send_fds(line, [b"+"], [theirs.fileno()])
        except BlockingIOError:
            self._bury(line, "it hangs")
            raise _HostGone from None
        except OSError as error:
            self._bury(line, str(error))
            raise _HostGone from None

    def _bury(self, line: socket.socket, why: str) -> None:
        """Once: whoever asked the same host finds another."""
        if line is self._line:
            log.warning("the process that renders requests' templates is gone (%s)", why)
            self._end()

    async def _up(self) -> socket.socket:
        """The line to a host that is ready. Raises OSError or _NoHost, or _HostGone where it died at once."""
        self._check_open()
        if self._line is None:
            if self._starting is None:
                self._starting = asyncio.ensure_future(asyncio.to_thread(self._start))
                self._starting.add_done_callback(self._started)
            await asyncio.shield(self._starting)  # for whoever comes next, if not for us
        if self._line is None:
            raise _HostGone
        return self._line

    def _started(self, starting: asyncio.Future[None]) -> None:
        self._starting = None
        if not starting.cancelled():
            starting.exception()  # told to those who wait, if there are any

    def _start(self) -> None:
        """In a thread: have a host that is ready, unless we are closed meanwhile. Raises OSError or _NoHost."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = self._spawned(theirs)
            self._check_open()  # now or later: `close` finds the process
            ours.settimeout(_STARTS)
            ours.sendall(framed(msgspec.json.encode(facts_of(self._text, self._bounds))))
            if not ours.recv(1):
                raise _NoHost("it did not start")
            ours.setblocking(False)
            self._line = ours
            self._check_open()
        except BaseException:
            ours.close()
            self._end()
            raise

    def _spawned(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._host, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
        )

    def _check_open(self) -> None:
        if self._closed:
            raise _NoHost("the model is being let go of")

    def _verdict(self, fate: Fate) -> str:
        match fate:
            case "slow":
                return f"it takes more than {self._bounds.seconds:g} seconds to compute"
            case "deep":
                return "it is nested too deeply"
            case "memory":
                return f"it takes more than {self._bounds.memory >> 20} MiB of memory"
            case _:
                return "its process died over it"


async def _heard(sock: socket.socket) -> Answer:
    """The one frame that comes. Raises OSError where nothing does, EOFError where a part does."""
    frames, size, loop = Frames(), 0, asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, CHUNK):
        if (size := size + len(data)) > MAX_ANSWER:
            return Broken(f"it makes a text of more than {MAX_ANSWER >> 20} MiB")
        try:
            for body in frames.push(data):
                return _checked(_decode(body))
        except ValueError:  # whatever a child says that is none of ours any more
            return Lost("killed")
    if size:
        raise EOFError
    raise ConnectionResetError


async def _lives(line: socket.socket) -> bool:
    """Whether the host is there, after what looked as if it were not. It says nothing on its line but by its end."""
    try:
        async with asyncio.timeout(_DYING):
            while _open(line):
                await asyncio.sleep(_DYING / 20)
    except TimeoutError:
        return True
    return False


def _open(line: socket.socket) -> bool:
    if line.fileno() < 0:  # buried by another
        return False
    try:
        return bool(line.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


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
