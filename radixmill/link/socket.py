"""The engine half of the waist: one listening socket per incarnation, one connection per front; synchronous.

A front that goes away takes its own sequences with it and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from radixmill.core.messages import ToEngine
from radixmill.link.codec import Frames, Garbage, decode_to_engine, frame

log = logging.getLogger("radixmill.link")

MAX_PEERS = 128  # connections at a time; beyond that, the oldest that has never said a word makes room
MAX_UNSENT = 64 << 20  # bytes that a peer may leave unread

_CHUNK = 1 << 18
_CREDENTIALS = struct.Struct("iII")  # process, user, group: what Linux tells of the other end


@dataclass(eq=False, slots=True)
class Peer:
    """A connected front."""

    sock: socket.socket
    frames: Frames = field(default_factory=Frames)
    unsent: bytearray = field(default_factory=bytearray)
    heard: bool = False  # it has sent a message


@dataclass(frozen=True, slots=True)
class Joined:
    peer: Peer


@dataclass(frozen=True, slots=True)
class Left:
    peer: Peer


@dataclass(frozen=True, slots=True)
class Said:
    peer: Peer
    message: ToEngine


@dataclass(frozen=True, slots=True)
class Woken:
    """The `wake` socket has something to read."""


Incident = Joined | Left | Said | Woken


def is_ours(sock: socket.socket) -> bool:
    """Whether the process at the other end of a local socket runs as the user that we run as. True where the system
    cannot tell: there the folder's permissions alone keep others out."""
    if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return bool(user == os.geteuid())


class EngineSocket:
    """Accepts fronts of our own user, reads their messages, sends them ours. Never blocks but in `poll`."""

    def __init__(
        self, listener: socket.socket, watch: socket.socket | None = None, wake: socket.socket | None = None
    ) -> None:
        """`watch`: a socket whose end of stream means that our parent is gone; `poll` then raises EOFError. `wake`: one
        that ends a wait when it can be read; whoever owns it reads it."""
        self._selector = selectors.DefaultSelector()
        self._listener, self._watch = listener, watch
        self._peers: dict[int, Peer] = {}  # by file number, the oldest first
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, None)
        if watch is not None:
            watch.setblocking(False)
            self._selector.register(watch, selectors.EVENT_READ, watch)
        if wake is not None:
            self._selector.register(wake, selectors.EVENT_READ, Woken())

    def poll(self, timeout: float | None) -> Iterator[Incident]:
        """What has happened; waits up to `timeout` seconds (None: until something does, 0: not at all)."""
        for key, events in self._selector.select(timeout):
            if key.data is None:
                yield from self._accept()
            elif key.data is self._watch:
                self._check_parent()
            elif isinstance(key.data, Woken):
                yield key.data
            else:
                if events & selectors.EVENT_WRITE and key.data.sock.fileno() >= 0:
                    yield from self._flush(key.data)
                if events & selectors.EVENT_READ and key.data.sock.fileno() >= 0:
                    yield from self._read(key.data)

    def send(self, peer: Peer, message: Any) -> None:
        """Queue a message and send what the socket takes. A peer that has left is noticed by `poll`."""
        if peer.sock.fileno() < 0:
            return
        peer.unsent += frame(message)
        with contextlib.suppress(OSError):
            self._push(peer)
        if len(peer.unsent) > MAX_UNSENT:
            log.warning("dropped a peer that leaves %d bytes unread", len(peer.unsent))
            self.drop(peer)

    def drop(self, peer: Peer) -> None:
        """Have nothing more to do with a peer; `poll` says that it has left."""
        peer.unsent.clear()
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Peer):
                key.data.sock.close()
        self._listener.close()
        self._selector.close()

    def _accept(self) -> Iterator[Incident]:
        """All that wait, up to a bound: a turn may take long, and whoever finds the queue full is turned away."""
        for _ in range(MAX_PEERS):
            try:
                sock = self._listener.accept()[0]
            except OSError:  # there are no more, it has gone again, or there are too many files open
                return
            if is_ours(sock):
                yield from self._welcome(sock)
            else:
                sock.close()

    def _welcome(self, sock: socket.socket) -> Iterator[Incident]:
        sock.setblocking(False)
        yield from self._make_room()
        peer = self._peers[sock.fileno()] = Peer(sock)
        self._selector.register(sock, selectors.EVENT_READ, peer)
        yield Joined(peer)

    def _make_room(self) -> Iterator[Incident]:
        if len(self._peers) >= MAX_PEERS:
            silent = (peer for peer in self._peers.values() if not peer.heard)
            yield from self._leave(next(silent, next(iter(self._peers.values()))))

    def _check_parent(self) -> None:
        assert self._watch is not None
        try:
            alive = bool(self._watch.recv(4096))
        except BlockingIOError:
            return
        except OSError:  # it left words of ours unread when it died: the line is reset
            alive = False
        if not alive:
            raise EOFError("the supervisor is gone")

    def _read(self, peer: Peer) -> Iterator[Incident]:
        try:
            data = peer.sock.recv(_CHUNK)
            if not data:
                yield from self._leave(peer)
                return
            for body in peer.frames.push(data):
                message = decode_to_engine(body)
                peer.heard = True
                yield Said(peer, message)
        except BlockingIOError:
            return
        except Garbage as error:
            log.warning("dropped a peer that sent a %s", error)
            yield from self._leave(peer)
        except OSError:
            yield from self._leave(peer)

    def _flush(self, peer: Peer) -> Iterator[Incident]:
        try:
            self._push(peer)
        except OSError:
            yield from self._leave(peer)

    def _push(self, peer: Peer) -> None:
        with contextlib.suppress(BlockingIOError):
            while peer.unsent:
                del peer.unsent[: peer.sock.send(peer.unsent)]
        wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._selector.get_key(peer.sock).events != wants:
            self._selector.modify(peer.sock, wants, peer)

    def _leave(self, peer: Peer) -> Iterator[Incident]:
        if peer.sock.fileno() >= 0:
            self._selector.unregister(peer.sock)
            del self._peers[peer.sock.fileno()]
            peer.sock.close()
            yield Left(peer)
