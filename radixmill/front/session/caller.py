"""Who sent a request, and what that keeps apart. Knows digests of keys, never keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
from msgspec import Struct


class Meter:
    """What a request has cost so far, in tokens; whoever logs requests reads it."""

    __slots__ = ("completion", "prompt")

    def __init__(self) -> None:
        self.prompt = self.completion = 0


class Caller(Struct, frozen=True):
    """`owner`: the digest of the caller's key, in hexadecimal; "" where there are no keys: then all are one."""

    owner: str = ""
    admin: bool = False  # may touch what belongs to others
    meter: Meter | None = None


ANYONE = Caller()


def namespace(owner: str, salts: Iterable[str]) -> str:
    """Which cached prefixes a request may meet: those of equal owner and equal salts, and no others.

    A digest of all of it: no salt spells another owner's namespace, or two salts in one. "" where nothing is told apart.
    """
    parts = [owner, *salts]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest() if any(parts) else ""


def salts(*given: str | None) -> tuple[str, ...]:
    """Those that are given, and not empty."""
    return tuple(filter(None, given))
