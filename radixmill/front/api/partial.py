"""JSON that was cut off → the object that its beginning holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_CLOSERS = {"{": "}", "[": "]"}
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?P<closed>"?)|[{}\[\],]', re.DOTALL)

# The beginning of a valid object can be closed at one of its last places: behind the text, behind a key, before its comma.
TRIES = 6


def whole_object(text: str) -> msgspec.Raw:
    """The text of a JSON object as it is; of one that breaks off, the longest beginning that can be closed.

    A key without its value, a half string and a half word are left out; what is no object at all is `{}`.
    """
    if _is_object(text):
        return msgspec.Raw(text.encode())
    closed = (text[:at] + closers for at, closers in list(_endings(text))[: -TRIES - 1 : -1])
    return msgspec.Raw(next(filter(_is_object, closed), "{}").encode())


def told_again(arguments: str) -> str:
    """The arguments of an earlier call for a chat template: an answer cut by its length is history too.

    None are `{}`; an object that breaks off is closed as in whole_object; what begins no object stays as it is.
    """
    if not arguments.lstrip().startswith("{"):
        return arguments or "{}"
    return bytes(whole_object(arguments)).decode()


def _is_object(text: str) -> bool:
    try:
        _decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _endings(text: str) -> Iterator[tuple[int, str]]:
    """Places where a value may end, and what would close everything that is open there."""
    open_: list[str] = []
    for token in _TOKEN.finditer(text):
        at = token.end()
        match token[0][0]:
            case "{" | "[" as opener:
                open_.append(_CLOSERS[opener])
            case "}" | "]":
                del open_[-1:]
            case ",":
                at = token.start()
            case _ if not token["closed"]:
                return  # inside a string
        yield at, "".join(reversed(open_))
    yield len(text), "".join(reversed(open_))
