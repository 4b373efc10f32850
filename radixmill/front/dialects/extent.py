"""JSON within a text that is still being written: where it ends, and what it says. Knows nothing of tags."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NoReturn

Verdict = Literal["more", "done", "bad"]

SPACE = " \t\r\n"  # JSON's
MAX_DEPTH = 200  # of nested values; deeper calls are taken for text
_OUTSIDE = frozenset(SPACE + "0123456789+-.,:eEtrufalsn")  # of strings and brackets: what JSON may hold there
_BETWEEN = re.compile(f"[^{re.escape(''.join(sorted(_OUTSIDE)))}]")
_IN_STRINGS = re.compile(r'["\\\x00-\x1f]')


class Extent:
    """Finds where a JSON object or array ends, in any portions; says so early where it can't be JSON."""

    def __init__(self) -> None:
        self.depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str, start: int = 0) -> tuple[int, Verdict]:
        """Go on with `text[start:]`. Where it stopped: behind it, or at the character that can't be."""
        at = self._telling(text, start)
        while at < len(text):
            if not self._takes(text[at]):
                return at, "bad"
            if not self.depth:
                return at + 1, "done"
            at = self._telling(text, at + 1)
        return at, "more"

    def _telling(self, text: str, at: int) -> int:
        """Where the next character stands that may change anything."""
        if self._escaped or not self.depth:
            return at
        found = (_IN_STRINGS if self._quoted else _BETWEEN).search(text, at)
        return found.start() if found else len(text)

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
        return 0 < self.depth <= MAX_DEPTH or (self.depth == 0 and char in "]}")

    def _takes_quoted(self, char: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._quoted = False
        return char >= " "


def behind_space(text: str, at: int) -> int:
    """Where white space that begins at `at` ends."""
    visible = _visible.search(text, at)
    return visible.start() if visible else len(text)


def read_input(arguments: str) -> str | None:
    """The text in `{"input": "…"}`, and nothing else in it; None for other arguments. No text can hold a surrogate that
    stands alone, which JSON's escapes can: U+FFFD stands for it."""
    value = read(arguments)
    text = value.get("input") if isinstance(value, dict) and len(value) == 1 else None
    return paired(text, "replace") if isinstance(text, str) else None


def paired(text: str, alone: Literal["strict", "replace"] = "strict") -> str:
    """With two surrogates that make one character as that. Raises UnicodeDecodeError where one stands alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", alone)


def read(text: str) -> Any:
    """What JSON says. Raises ValueError where it is none; NaN and its like are none."""
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_visible = re.compile(f"[^{SPACE}]")
_decoder = json.JSONDecoder(parse_constant=_no_constant)
