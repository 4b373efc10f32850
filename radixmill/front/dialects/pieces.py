"""What a model's text is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Said(NamedTuple):
    """Content. `end`, as of every piece: characters of the raw text up to here."""

    text: str
    end: int


class Thought(NamedTuple):
    """Thoughts, without their tags."""

    text: str
    end: int


class Called(NamedTuple):
    """Call number `call` begins. `custom`: its input is text, not JSON. `id`: as the model wrote it, where it does."""

    call: int
    name: str
    custom: bool
    end: int
    id: str = ""


class Passed(NamedTuple):
    """More of the input of that call."""

    call: int
    text: str
    end: int


Piece = Said | Thought | Called | Passed


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces of one kind that follow each other put together."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        match last, piece:
            case (Said(text), Said(more, end)):
                out[-1] = Said(text + more, end)
            case (Thought(text), Thought(more, end)):
                out[-1] = Thought(text + more, end)
            case (Passed(call, text), Passed(same, more, end)) if call == same:
                out[-1] = Passed(call, text + more, end)
            case _:
                out.append(piece)
    return out
