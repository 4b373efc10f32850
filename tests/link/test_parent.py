"""An engine whose supervisor is gone, in whichever way."""

from __future__ import annotations

import socket
import struct

import pytest

from radixmill.link.socket import EngineSocket


def test_a_line_that_is_reset_has_ended() -> None:
    """As when it dies with words of ours unread."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as door:
        parent = socket.create_connection(door.getsockname())
        watch, _ = door.accept()
        parent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link = EngineSocket(listener, watch)
        assert list(link.poll(0)) == []
        parent.close()
        with watch, pytest.raises(EOFError):
            list(link.poll(5))
        link.close()
