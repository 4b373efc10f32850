"""What a client may do to a connection before any request of it reaches the app: sizes, times and numbers, all limited.

uvicorn parses, and runs the app; here stand the limits, and what its parser lets through that it should not.

    quiet ──first byte──▶ head ──its end──▶ body ──its end──▶ waiting ──answered──▶ quiet
      └────────┴──────────────┴── too large, too slow, malformed ──▶ leaving
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
import socket
import struct
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from radixmill.core.config import ServerOptions
from radixmill.core.errors import BadRequest, NotReady, Overloaded, ServeError
from radixmill.front.api.anthropic.errors import message_error, speaks_anthropic
from radixmill.front.api.connections import HeadTooLarge, Limits, TooSlow, UrlTooLong, fit_files, network
from radixmill.front.api.errors import EXPOSED, MethodNotAllowed, error_headers

log = logging.getLogger("radixmill.front")

PIPELINED = 64  # requests that may wait behind one that is being answered
LINGER = 1.0  # seconds in which a refused client may take its answer, and finish what it was sending
LINGER_MOST = (
    10.0  # the same, of one that goes on sending at the rate of bodies: reset before, it might not see its answer
)
SLOWEST = 1 << 10  # bytes a second; who takes fewer of what waits for it does not read
READ = 256 << 10  # most bytes that one read brings


MALFORMED = "This is not a valid HTTP request."


class House:
    """All connections of one HTTP process: how many, from where, and one clock for all their deadlines."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections: set[Connection] = set()
        self._from: Counter[str] = Counter()
        times = (limits.header_seconds, limits.body_seconds, limits.keep_alive, limits.write_seconds)
        self._tick = min(0.25, *(each / 4 for each in times))
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self, **given: Any) -> Connection:
        """What uvicorn makes for each connection."""
        return Connection(self, **given)

    def enter(self, connection: Connection) -> ServeError | None:
        """Why it may not stay; None: it may. It counts until it leaves, in either case."""
        self.connections.add(connection)
        self._from[connection.address] += 1
        if self._timer is None:
            self._timer = connection.loop.call_later(self._tick, self._look, connection.loop)
        limits = self.limits
        if len(self.connections) > limits.connections:
            return NotReady("This server has as many connections as it takes. Try again shortly.", retry_after=1.0)
        if limits.per_address and self._from[connection.address] > limits.per_address:
            return Overloaded("There are too many connections from your address.", retry_after=1.0)
        return None

    @property
    def crowded(self) -> bool:
        """There are too many even of those that are being refused."""
        return len(self.connections) > 2 * self.limits.connections + PIPELINED

    def leave(self, connection: Connection) -> None:
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self._from[connection.address] -= 1
        if not self._from[connection.address]:
            del self._from[connection.address]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.look(now)
        self._timer = loop.call_later(self._tick, self._look, loop) if self.connections else None


class Phase(enum.Enum):
    QUIET = enum.auto()  # nothing of a request has come
    HEAD = enum.auto()
    BODY = enum.auto()
    WAITING = enum.auto()  # it is whole, and being answered
    LEAVING = enum.auto()  # nothing more is read


class _Refused(Exception):
    """Raised in the parser's callbacks, to stop it."""


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, house: House, **given: Any) -> None:
        super().__init__(**given)
        self.house, self.limits = house, house.limits
        self.address = ""
        self._phase = Phase.QUIET
        self._deadline = math.inf  # monotonic clock; by then the phase must be another
        self._stuck_at = math.inf  # since when the client does not take what we send
        self._unsent = 0  # bytes that waited for the client when it last took some
        self._parted_at = math.inf  # since when we only wait for the end of what the client sends
        self._drained = 0  # bytes, since then
        self._active: RequestResponseCycle | None = None  # the one that the app is answering
        self._refusal: ServeError | None = None  # to be said, after what is being answered
        self._upgrading = False  # the head at hand asks for another protocol
        self._raw = self._head = self._got = self._trailers = 0  # bytes: read, of the head, of the body; trailer fields
        self._body_since = 0.0
        self._line = (b"", b"")  # method and URL of the head that asks for another protocol

    # --- the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = network(self.client[0]) if self.client else ""
        self._deadline = time.monotonic() + self.limits.header_seconds
        if refusal := self.house.enter(self):
            if self.house.crowded:
                self._phase = Phase.LEAVING
                transport.abort()
            else:
                self._bow_out(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self.house.leave(self)
        self._phase, self._deadline = Phase.LEAVING, math.inf
        self._unset_keepalive_if_required()
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._phase is Phase.LEAVING or self._refusal:
            self._drain(len(data))
            return
        if self._phase is Phase.QUIET:
            self._begin_head()
        self._raw += len(data)
        self._feed(data)
        if self._phase is Phase.HEAD and self._raw > self.limits.header_bytes + self.limits.url_bytes + READ:
            self._bow_out(self._too_large())
        elif self._phase is Phase.BODY and self._raw - self._got > 2 * self._got + self.limits.header_bytes + 2 * READ:
            self._bow_out(BadRequest("The request body is nearly all framing.", code="invalid_http"))

    def eof_received(self) -> None:
        """Who closes its side is gone. TCP tells the end of what a client sends, not whether it still reads, and nearly always
        it does neither. What is under way is cancelled now: the transport tells its loss only when all has been flushed."""
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()
        self.flow.resume_writing()

    def pause_writing(self) -> None:
        self._stuck_at = time.monotonic()
        self._unsent = self.transport.get_write_buffer_size()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck_at = math.inf
        self._unsent = 0
        super().resume_writing()

    # --- the parser calls

    def on_message_begin(self) -> None:
        if self._phase is Phase.LEAVING:
            raise self._refused(NotReady("This connection ends here.", retry_after=1.0))
        if self._phase is not Phase.HEAD:
            self._begin_head()
        self._head = self._trailers = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            raise self._refused(
                UrlTooLong(f"The URL is longer than this server takes ({self.limits.url_bytes} bytes).")
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not Phase.HEAD:  # a trailer: nobody here wants any
            self._trailers += 1
            if self._trailers > self.limits.headers:
                raise self._refused(self._too_large())
            return
        self._head += len(name) + len(value) + len(b": \r\n")
        if self._head > self.limits.header_bytes or len(self.headers) >= self.limits.headers:
            raise self._refused(self._too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise self._refused(MethodNotAllowed("CONNECT is not allowed here."))
            self._upgrading, self._line = True, (self.parser.get_method(), self.url)
            return
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise self._refused(BadRequest("This server speaks HTTP/1.1.", code="invalid_http"))
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise self._refused(BadRequest("The request names more than one host.", code="invalid_http"))
        if len(self.pipeline) >= PIPELINED:
            raise self._refused(Overloaded("Too many requests wait on this connection.", retry_after=1.0))
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, _Parting(self, self.cycle))
        self.flow.resume_reading()  # uvicorn stops behind a queued request, and would not see the client leave
        self._phase, self._got, self._body_since = Phase.BODY, 0, time.monotonic()
        self._raw = 0
        self._deadline = self._body_since + self.limits.body_seconds

    def on_body(self, body: bytes) -> None:
        self._got += len(body)
        if not self.cycle.response_complete:  # what nobody wants any more buys no time
            self._deadline = self._body_since + self.limits.body_seconds + self._got / self.limits.body_rate
        else:
            self._drain(len(body))
        super().on_body(body)
        if self.cycle is not self._active and len(self.cycle.body) > HIGH_WATER_LIMIT:
            raise self._refused(Overloaded("A request this large must wait for the answer before it.", retry_after=1.0))

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        super().on_message_complete()
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()
            self._leave_by(self.limits.write_seconds)
        elif self.cycle.response_complete:
            self._rest()
        else:
            self._phase, self._deadline = Phase.WAITING, math.inf

    # --- the app has answered

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._active = None
        super().on_response_complete()
        now = time.monotonic()
        if self.transport.is_closing():
            self._leave_by(self.limits.write_seconds)
        elif self._active is not None:
            pass  # the next one that was queued
        elif self._refusal:
            self._bow_out(self._refusal)
        elif self._phase is Phase.WAITING:
            self._rest()
        elif self._phase is Phase.BODY:  # answered before it was whole
            self._part(now)

    def close_after(self, cycle: RequestResponseCycle) -> None:
        """The connection is to end with this answer. What the client is still sending is awaited a while: closed upon, it would
        be told of a reset connection, and not of the answer."""
        if self._phase is not Phase.BODY or cycle is not self.cycle or not cycle.response_complete:
            self.transport.close()

    # --- time

    def look(self, now: float) -> None:
        """Act on what is overdue."""
        closing = self.transport.is_closing()
        if self._unsent and self._takes():
            self._took(now)
        if closing and self._phase is not Phase.LEAVING:
            self._leave_by(min(self._deadline - now, self.limits.write_seconds))
        if now - self._stuck_at > self.limits.write_seconds or (now >= self._deadline and self.transport.is_closing()):
            self._deadline = math.inf
            self._reset()
        elif now >= self._deadline:
            self._expire(now)

    def _takes(self) -> bool:
        """Whether the client has taken its share since it last had. The system's buffers move in large steps."""
        share = min(SLOWEST * self.limits.write_seconds, self._unsent)
        return self.transport.get_write_buffer_size() <= self._unsent - share

    def _took(self, now: float) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        if self._stuck_at < math.inf:
            self._stuck_at = now
        if self.transport.is_closing():
            self._deadline = now + self.limits.write_seconds

    def _expire(self, now: float) -> None:
        match self._phase:
            case Phase.QUIET if self._stuck_at < math.inf:
                self._deadline = now + LINGER  # it still reads its answer
            case Phase.HEAD:
                self._bow_out(TooSlow("The head of the request took too long."))
            case Phase.BODY if self.flow.read_paused and not self.cycle.response_complete:
                self._deadline = now + LINGER  # it is we who do not read
            case Phase.BODY if not self.cycle.response_complete:
                self._bow_out(TooSlow("The body of the request took too long."))
            case Phase.LEAVING:
                self.transport.abort()
            case _:
                self.transport.close()
                self._leave_by(self.limits.write_seconds if self.transport.get_write_buffer_size() else LINGER)

    # --- steps

    def _reset(self) -> None:
        """Let the kernel forget, too, what nobody reads."""
        with contextlib.suppress(OSError):
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _begin_head(self) -> None:
        self._phase, self._raw = Phase.HEAD, 0
        self._deadline = time.monotonic() + self.limits.header_seconds

    def _rest(self) -> None:
        self._phase, self._deadline = Phase.QUIET, time.monotonic() + self.limits.keep_alive
        self._parted_at = math.inf

    def _leave_by(self, seconds: float) -> None:
        self._phase, self._deadline = Phase.LEAVING, time.monotonic() + seconds
        self._unsent = self.transport.get_write_buffer_size()

    def _part(self, now: float) -> None:
        self._parted_at, self._drained = now, 0
        self._deadline = min(self._deadline, now + LINGER)

    def _drain(self, size: int) -> None:
        """Bytes that nobody wants came from a client that has had its answer."""
        self._drained += size
        if self._parted_at < math.inf and not self.transport.is_closing():
            self._deadline = self._parted_at + min(LINGER_MOST, LINGER + self._drained / self.limits.body_rate)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._plain_head() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._bow_out(self._refusal or BadRequest(MALFORMED, code="invalid_http"))
                return

    def _plain_head(self) -> bytes:
        """The head asked for another protocol, and we speak none. The parser took what follows for that protocol's bytes,
        where it may be a body: a fresh one gets the head again, without the wish."""
        self._upgrading = False
        lines = [b"%s %s HTTP/%s\r\n" % (*self._line, self.parser.get_http_version().encode())]
        lines += [b"%s: %s\r\n" % header for header in _without_upgrade(self.headers)]
        self.parser = httptools.HttpRequestParser(self)
        return b"".join([*lines, b"\r\n"])

    def _too_large(self) -> ServeError:
        limits = self.limits
        return HeadTooLarge(
            f"The head of the request is larger than this server takes ({limits.header_bytes} bytes, {limits.headers} fields)."
        )

    def _refused(self, refusal: ServeError) -> _Refused:
        self._refusal = refusal
        return _Refused()

    def _unanswered(self) -> Iterator[RequestResponseCycle]:
        if self._active:
            yield self._active
        yield from (cycle for cycle, _ in self.pipeline)

    def _bow_out(self, refusal: ServeError) -> None:
        """Say why, after what is being answered, and go. What still comes is read and dropped, so that it can be heard."""
        self._refusal = refusal
        if self._active is not None and self._active is self.cycle and self._phase is Phase.BODY:
            self._give_up_request(self._active)
        elif self._active is not None:
            self._drop_unfinished()
            self._phase, self._deadline = Phase.WAITING, math.inf
            self.flow.resume_reading()
            return
        self._say(refusal)

    def _give_up_request(self, cycle: RequestResponseCycle) -> None:
        """Its body will never be whole."""
        cycle.disconnected = True
        cycle.message_event.set()

    def _drop_unfinished(self) -> None:
        """The newest of the queue, where it is what went wrong."""
        if self._phase is Phase.BODY and self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()

    def _say(self, refusal: ServeError) -> None:
        in_body, self._phase = self._phase is Phase.BODY, Phase.LEAVING
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        now = time.monotonic()
        self._deadline = now + LINGER
        if in_body:
            self._part(now)
        self.flow.resume_reading()
        if self._active is None or not self._active.response_started:
            path = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
            self.transport.write(_raw_answer(refusal, path))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


class _Parting:
    """What an answer has of the transport: when it closes, the connection decides how."""

    def __init__(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        self._connection, self._cycle = connection, cycle
        self.write, self.is_closing = connection.transport.write, connection.transport.is_closing

    def close(self) -> None:
        self._connection.close_after(self._cycle)


def _raw_answer(refusal: ServeError, path: str) -> bytes:
    """An answer that no app has seen, with the shape and the headers that the app's have."""
    id, theirs = uuid.uuid4().hex, speaks_anthropic(path)
    body = msgspec.json.encode(message_error(refusal, id) if theirs else refusal.body())
    head = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in error_headers(refusal).items()},
        "connection": "close",
        "x-request-id": id,
        **({"request-id": id} if theirs else {}),
        "access-control-allow-origin": "*",
        "access-control-expose-headers": ", ".join(EXPOSED),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return STATUS_LINE[refusal.status] + f"{lines}\r\n".encode() + body


def _without_upgrade(headers: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in headers:
        if name == b"connection":
            kept = [
                token for token in value.split(b",") if token.strip().lower() not in (b"upgrade", b"http2-settings")
            ]
            if kept:
                yield name, b",".join(kept)
        elif name not in (b"upgrade", b"http2-settings"):
            yield name, value


def protocol_factory(server: ServerOptions) -> Callable[..., Connection]:
    """uvicorn's `http` for a server with these settings."""
    return House(fit_files(Limits.of(server))).protocol
