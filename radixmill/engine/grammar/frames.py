"""Talk between the engine and the process that tries grammars: frames of a 4-byte little-endian length and msgpack."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from radixmill.core.request import ConstraintKind
from radixmill.engine.grammar.vocabulary import Vocabulary

MAX_FRAME = 64 << 20

_LENGTH = struct.Struct("<I")


class Hello(Struct, tag=True, frozen=True):
    """First, from the builder: the model's tokens."""

    vocabulary: Vocabulary


class Job(Struct, tag=True, frozen=True):
    """Try this constraint."""

    id: int
    kind: ConstraintKind
    text: str


class Tried(Struct, tag=True, frozen=True):
    """It can be built: the grammar in the library's format, and by how many bytes building it grew a process."""

    id: int
    grammar: str
    cost: int = 0


class Refusal(Struct, tag=True, frozen=True):
    """It cannot."""

    id: int
    reason: str
    place: str = ""


FromBuilder = Hello | Tried | Refusal

_encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_answer = msgspec.msgpack.Decoder(FromBuilder).decode


def frame(message: Any) -> bytes:
    """A message as one frame."""
    body = _encode(message)
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
