"""A byte stream cut into frames: a 4-byte little-endian length and so many bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAX_FRAME = 64 << 20

_LENGTH = struct.Struct("<I")


def framed(body: bytes) -> bytes:
    """One frame."""
    return _LENGTH.pack(len(body)) + body


def is_whole(data: bytes | bytearray) -> bool:
    """Whether `data` is one frame."""
    return len(data) >= _LENGTH.size and len(data) == _LENGTH.size + _LENGTH.unpack_from(data)[0]


class Frames:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def push(self, data: bytes) -> Iterator[bytes]:
        """Frames completed by `data`. Raises ValueError on a length that no peer of ours would send."""
        self._held += data
        while len(self._held) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._held)
            if size > MAX_FRAME:
                raise ValueError(f"frame of {size} bytes")
            end = _LENGTH.size + size
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield body
