"""The socket that clients connect to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from radixmill.core.errors import CannotStart


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotStart where the address can't be had."""
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
