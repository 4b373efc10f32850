"""Bytes on the waist: frames of a 4-byte little-endian length and one msgpack message of the closed unions."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from radixmill.core.messages import FromEngine, ToEngine

MAX_FRAME = 256 << 20

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode

_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
_from_engine = msgspec.msgpack.Decoder(FromEngine).decode


class Garbage(Exception):
    """Bytes that no peer of ours would send."""


def decode_to_engine(body: bytes) -> ToEngine:
    """Raises Garbage."""
    try:
        return _to_engine(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Garbage(f"frame that cannot be read ({error})") from None


def decode_from_engine(body: bytes) -> FromEngine:
    """Raises Garbage."""
    try:
        return _from_engine(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Garbage(f"frame that cannot be read ({error})") from None


def frame(message: Any) -> bytes:
    """A message as one frame."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into frames; what a broken connection leaves half-sent is never returned."""

    def __init__(self) -> None:
        self._held = bytearray()

    def push(self, data: bytes) -> Iterator[bytes]:
        """Frames completed by `data`. Raises Garbage on a length that no peer of ours would send."""
        held = self._held
        held += data
        at = 0
        while len(held) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(held, at)
            if size > MAX_FRAME:
                raise Garbage(f"frame of {size} bytes")
            if len(held) - at < _LENGTH.size + size:
                break
            at += _LENGTH.size
            yield bytes(held[at : at + size])
            at += size
        del held[:at]
