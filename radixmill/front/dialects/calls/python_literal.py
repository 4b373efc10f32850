"""Literals of Python, or JSON, in a text that is still being written → their JSON.

What is JSON means what JSON says; else what Python says: `True`, `'it\\'s'`, `(1, 2)`, `0x1f`, `[1,]`. Values that JSON
doesn't have (bytes, sets, complex numbers, keys that are no strings) are none.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata

from radixmill.front.dialects.extent import MAX_DEPTH, paired, read
from radixmill.front.dialects.scan import Malformed, Scan, Steps

_ESCAPE = re.compile(
    r"\\(?:(\r\n|\n|\r)|([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|N\{([^}]+)\}|([\s\S]))"
)
_LETTERS = {"\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS = {"True": "true", "False": "false", "None": "null"}


def literal(scan: Scan, depth: int = 1) -> Steps[str]:
    """The JSON of the value that begins here. Raises Malformed."""
    char = yield from scan.peek()
    if depth > MAX_DEPTH:
        raise Malformed
    if char in ('"', "'"):
        return (yield from _string(scan))
    if char == "{":
        return (yield from _dict(scan, depth))
    if char in ("[", "("):
        return (yield from _list(scan, depth))
    return (yield from atom(scan))


def _list(scan: Scan, depth: int) -> Steps[str]:
    """A list or a tuple; or a value in parentheses."""
    close = {"[": "]", "(": ")"}[(yield from scan.expect("[", "("))]
    items: list[str] = []
    comma = True
    yield from scan.space()
    while comma and not (yield from scan.takes(close)):
        items.append((yield from literal(scan, depth + 1)))
        yield from scan.space()
        if not (comma := bool((yield from scan.takes(",")))):
            yield from scan.expect(close)
        yield from scan.space() if comma else ()
    alone = close == ")" and not comma and len(items) == 1
    return items[0] if alone else f"[{', '.join(items)}]"


def _dict(scan: Scan, depth: int) -> Steps[str]:
    """Of a key that comes twice, the last counts."""
    members: dict[str, str] = {}
    comma = True
    yield from scan.expect("{")
    yield from scan.space()
    while comma and not (yield from scan.takes("}")):
        key = _dumped(read((yield from _string(scan))))
        yield from scan.space()
        yield from scan.expect(":")
        yield from scan.space()
        members[key] = yield from literal(scan, depth + 1)
        yield from scan.space()
        if not (comma := bool((yield from scan.takes(",")))):
            yield from scan.expect("}")
        yield from scan.space() if comma else ()
    return as_object(members)


def as_object(members: dict[str, str]) -> str:
    """`members`: JSON of keys → of values."""
    return f"{{{', '.join(f'{key}: {value}' for key, value in members.items())}}}"


def _string(scan: Scan) -> Steps[str]:
    start, quote = scan.at, (yield from scan.expect('"""', "'''", '"', "'"))
    while not (yield from scan.which(quote)):
        char = yield from scan.peek()
        if char == "\\":
            scan.at += 1
            char = yield from scan.peek()
        elif char in "\r\n" and len(quote) == 1:
            raise Malformed
        if not char:
            raise Malformed
        scan.at += 1
    scan.at += len(quote)
    written = scan.text[start : scan.at]
    return written if _is_json(written) else _dumped(unescaped(written[len(quote) : -len(quote)]))


def _is_json(text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def unescaped(text: str) -> str:
    """The inside of one of Python's string literals. Raises Malformed."""
    return _ESCAPE.sub(_meaning, text)


def _meaning(match: re.Match[str]) -> str:
    end, octal, *hexes, name, letter = match.groups()
    if end:
        return ""
    if letter:
        if letter in "xuUN":
            raise Malformed
        return _LETTERS.get(letter, match[0])
    try:
        return (
            unicodedata.lookup(name) if name else chr(int(octal, 8) if octal else int("".join(filter(None, hexes)), 16))
        )
    except (KeyError, ValueError, OverflowError):
        raise Malformed from None


def _dumped(text: str) -> str:
    """JSON of a text, of whose surrogates none may stand alone."""
    try:
        return json.dumps(paired(text), ensure_ascii=False)
    except UnicodeDecodeError:
        raise Malformed from None


def atom(scan: Scan) -> Steps[str]:
    """A number or a word."""
    start = scan.at
    while (char := (yield from scan.peek())) and (char.isalnum() or char in "+-._"):
        scan.at += 1
    text = scan.text[start : scan.at]
    if _is_json(text):
        return text
    return _WORDS.get(text) or _number(text)


def _number(text: str) -> str:
    """JSON of a number that only Python writes so."""
    try:
        value = int(text, 0) if _INT.fullmatch(text) else float(text) if _FLOAT.fullmatch(text) else math.nan
        if math.isfinite(value):
            return json.dumps(value)
    except (ValueError, OverflowError):  # beyond what Python reads, floats hold, or Python writes
        pass
    raise Malformed


_INT = re.compile(r"[+-]?(0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[+-]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][+-]?[0-9_]+)?")
