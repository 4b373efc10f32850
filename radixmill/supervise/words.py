"""What children say to the supervisor: one line of JSON each, of a closed set. A child that says anything else is broken."""

from __future__ import annotations

from typing import Annotated

import msgspec

from radixmill.core.spec import Identity
from radixmill.supervise.boot import Order

Count = Annotated[int, msgspec.Meta(ge=0)]
Size = Annotated[int, msgspec.Meta(ge=1)]


class Word(msgspec.Struct, tag_field="event", forbid_unknown_fields=True):
    """`event` says which."""


class Unable(Word, tag="cannot_start"):
    """It ends now, because something that the user chose can't be."""

    message: str
    no_room: bool = False  # that is for want of memory
    changed: bool = False  # the model is not the one that earlier engines served


# --- an engine's


class EngineUp(Word, tag="up"):
    """It has loaded; it may be asked."""

    tokens: Size  # that its KV cache has room for
    context: Size
    bytes: Count = 0  # taken for weights and KV cache, touched or not
    identity: Identity | None = None  # of what it has loaded


class Progress(Word, tag="progress"):
    """It has committed its first token."""


# --- a front's


class FrontUp(Word, tag="up"):
    """It has a model to serve."""


class Deploy(Word, tag="deploy"):
    """Another model is wanted."""

    order: Order


class Prepared(Word, tag="prepared"):
    deployment: int


class Unprepared(Word, tag="unprepared"):
    """It can't be prepared."""

    deployment: int
    message: str


class Switched(Word, tag="switched"):
    deployment: int


class Released(Word, tag="released"):
    """Nothing runs on it here any more."""

    deployment: int
    order: str = ""  # that told to hold; "": another model has taken over


class Condemned(Word, tag="condemned"):
    """The request over which engines of this deployment died has been given up."""

    deployment: int


Stage = Prepared | Unprepared | Switched | Released  # of a rollout
EngineWord = EngineUp | Progress | Unable
FrontWord = FrontUp | Stage | Deploy | Condemned | Unable


class Unreadable(Exception):
    """It is no word."""


def read(role: str, line: bytes) -> EngineWord | FrontWord:
    """The word that a child of this role has said. Raises Unreadable."""
    try:
        return _engine(line) if role == "engine" else _front(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unreadable(f"{error}: {line[:200]!r}") from None


_engine = msgspec.json.Decoder(EngineWord).decode
_front = msgspec.json.Decoder(FrontWord).decode
