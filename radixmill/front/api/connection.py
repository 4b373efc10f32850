"""uvicorn's connection, which knows when a client is gone, and ends one that reads nothing.

A client that closes its side of the connection is gone: TCP tells the end of what it sends, not whether it still reads, and
nearly always it does neither. Waiting to learn it from a failed write would mean to compute for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("radixmill.front")


class Connection(HttpToolsProtocol):
    """`write_timeout`: seconds that a client may leave what we have written unread."""

    write_timeout = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None

    def eof_received(self) -> None:
        """The request under way is cancelled now, also where answers are still to be flushed before the end is told."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_writing()  # whoever waits to write need not
        self._end_in_time()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_in_time()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_in_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _end_in_time(self) -> None:
        """The transport closes as soon as all is flushed: that may be never."""
        if self.transport.get_write_buffer_size():
            self._wait_for_reader()

    def _wait_for_reader(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(self.write_timeout, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        log.info("closed a connection whose client has not read for %g s", self.write_timeout)
        with contextlib.suppress(OSError):  # a reset: the kernel forgets what nobody reads, too
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def connection(write_timeout: float) -> type[Connection]:
    """The class of a server's connections."""
    return type("Connection", (Connection,), {"write_timeout": write_timeout})
