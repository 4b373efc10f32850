"""The JSON of one tool call, while it comes and when it is whole. Knows nothing of tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn

Verdict = Literal["more", "done", "bad"]

SPACE = " \t\r\n"  # JSON's
MAX_DEPTH = 200  # of nested values; deeper calls are taken for text
_OUTSIDE = frozenset(SPACE + "0123456789+-.,:eEtrufalsn")  # of strings and brackets: what JSON may hold there


class Extent:
    """Finds where a JSON object ends, in any portions; says so early where it can't be JSON."""

    def __init__(self) -> None:
        self.depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str, start: int = 0) -> tuple[int, Verdict]:
        """Go on with `text[start:]`. Where it stopped: behind the object, or at the character that can't be."""
        for at in range(start, len(text)):
            if not self._takes(text[at]):
                return at, "bad"
            if not self.depth:
                return at + 1, "done"
        return len(text), "more"

    def _takes(self, char: str) -> bool:
        if self._quoted:
            return self._takes_quoted(char)
        if char == '"':
            self._quoted = True
        elif char in "{[":
            self.depth += 1
        elif char in "]}":
            self.depth -= 1
        elif char not in _OUTSIDE:
            return False
        return 0 < self.depth <= MAX_DEPTH or (self.depth == 0 and char == "}")

    def _takes_quoted(self, char: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._quoted = False
        return char >= " "


class Draft:
    """Where the JSON of a call stands in a text that only grows: `[start, at)`."""

    def __init__(self, start: int) -> None:
        """It begins at `start`, or behind the space there."""
        self.start = self.at = start
        self._extent = Extent()
        self._verdict: Verdict = "more"

    def read(self, text: str) -> Verdict:
        """Whether it is whole, and up to `at` all there is; `at` is the first wrong character if it is bad."""
        if self._verdict == "more":
            if self.at == self.start:
                self.start = self.at = len(text) - len(text[self.start :].lstrip(SPACE))
            self.at, self._verdict = self._extent.feed(text, self.at)
        return self._verdict


class Written(NamedTuple):
    """A call as the model wrote it. [start, end): where its arguments stand in the text; both None: there are none."""

    name: str
    start: int | None = None
    end: int | None = None


def read_call(text: str, name_key: str, arguments_key: str) -> Written | None:
    """The call in a whole JSON object; None where it is no JSON, has no name, or its arguments are no object.

    Keys may stand in any order; others are not looked at. null as arguments, or an empty object, means none.
    """
    try:
        found = list(_members(text))
    except (ValueError, IndexError):
        return None
    by_key = {member.key: member for member in found}
    name, arguments = by_key.get(name_key), by_key.get(arguments_key)
    if len(by_key) < len(found) or name is None or not isinstance(name.value, str):
        return None
    if arguments is None or arguments.value is None or arguments.value == {}:
        return Written(name.value)
    return Written(name.value, arguments.start, arguments.end) if isinstance(arguments.value, dict) else None


def read_input(arguments: str) -> str | None:
    """The text in `{"input": "…"}`, and nothing else in it; None for other arguments."""
    value = json.loads(arguments)
    text = value.get("input") if isinstance(value, dict) and len(value) == 1 else None
    return text if isinstance(text, str) else None


class _Member(NamedTuple):
    key: str
    value: Any
    start: int
    end: int


def _members(text: str) -> Iterator[_Member]:
    """The members of the object that is all of `text`. Raises ValueError or IndexError where it is no JSON."""
    at, decode = _after(text, 0, "{"), _decoder.raw_decode
    if text[at] == "}":
        return
    while True:
        if text[at] != '"':
            raise ValueError("a key must be a string")
        key, at = decode(text, at)
        start = _after(text, at, ":")
        value, end = decode(text, start)
        yield _Member(key, value, start, end)
        at = _space(text, end)
        if text[at] == "}":
            return
        at = _after(text, at, ",")


def _after(text: str, at: int, mark: str) -> int:
    """Behind `mark` and the space around it."""
    at = _space(text, at)
    if text[at] != mark:
        raise ValueError(f"{mark} expected")
    return _space(text, at + 1)


def _space(text: str, at: int) -> int:
    while text[at] in SPACE:
        at += 1
    return at


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
