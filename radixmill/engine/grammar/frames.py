"""Talk between the engine and the process that tries grammars: frames of msgpack."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from radixmill.core.request import ConstraintKind
from radixmill.engine.grammar.vocabulary import Vocabulary
from radixmill.sacrifice.frames import framed


class Hello(Struct, tag=True, frozen=True):
    """First, from the builder: the model's tokens."""

    vocabulary: Vocabulary


class Able(Struct, tag=True, frozen=True):
    """Second, from the builder: it has made of them what it needs, and tries what it is sent from now on."""


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
    """It cannot. Of job 0: nothing can, and the builder ends."""

    id: int
    reason: str
    place: str = ""


FromBuilder = Hello | Able | Tried | Refusal

_encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_answer = msgspec.msgpack.Decoder(FromBuilder).decode


def frame(message: Any) -> bytes:
    """A message as one frame."""
    return framed(_encode(message))
