"""A cursor in a text that is still being written. Readers of it are generators: each None they yield asks for more text.

What a reader decides must not depend on how the text was cut: it waits wherever more text could change its mind.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from radixmill.front.dialects.extent import SPACE, Extent

T = TypeVar("T")
Steps = Generator[Any, None, T]
"""A reader: what it yields is for whoever runs it, None asks for more text; T is what it has found in the end."""


class Malformed(Exception):
    """The text is not what it began as; the scan stands at the first character that can't be."""


class Scan:
    """The raw text from `base` on. `at`: the index in `text` of what comes next. `last`: no more will come.

    `exact`: literals of control tokens. A tag that has some in it is found only where those tokens stand (`mark`), not
    where their letters do.
    """

    def __init__(self, exact: Iterable[str] = ()) -> None:
        self.text, self.at, self.base, self.last = "", 0, 0, False
        self._exact = frozenset(exact)
        self._places: dict[str, tuple[int, ...]] = {}  # of control tokens in tags
        self._marks: set[int] = set()

    @property
    def position(self) -> int:
        """Characters of the raw text before what comes next."""
        return self.base + self.at

    def mark(self, position: int) -> None:
        """A control token's literal begins there in the raw text."""
        self._marks.add(position)

    def drop(self) -> None:
        """Forget the text before `at`. Indexes change."""
        self.text, self.base, self.at = self.text[self.at :], self.base + self.at, 0
        if self._marks:
            self._marks = {place for place in self._marks if place >= self.base}

    def stands(self, tag: str, at: int) -> bool:
        """Whether the tag is there, whole."""
        return self.text.startswith(tag, at) and self._counts(tag, at)

    def may_stand(self, tag: str, at: int) -> bool:
        """Whether the text ends before it is seen whether the tag is there."""
        size = len(self.text) - at
        if self.last or size >= len(tag) or not tag.startswith(self.text[at:]):
            return False
        return size == 0 or self._counts(tag, at)

    def seek(self, tags: Iterable[str], start: int) -> tuple[int, str]:
        """Where the first of the tags begins, and which; else how far there surely is none, and "". Of several at one
        place the longest; while one may be longer, none is told."""
        found, which = len(self.text), ""
        for tag in tags:
            if (at := self._first(tag, start, found + 1)) > found or at < 0:
                continue
            whole = len(self.text) - at >= len(tag)
            if at < found or not whole or (which and len(tag) > len(which)):
                found, which = at, tag if whole else ""
        return found, which

    def _first(self, tag: str, start: int, stop: int) -> int:
        """Where the tag first begins in [start, stop), perhaps cut off by the end of the text; -1: nowhere."""
        at = self.text.find(tag[0], start, stop)
        while at >= 0 and not (self.stands(tag, at) or self.may_stand(tag, at)):
            at = self.text.find(tag[0], at + 1, stop)
        return at

    def _counts(self, tag: str, at: int) -> bool:
        """Whether the tag's control tokens, as far as the text goes, are such there."""
        if tag not in self._places:
            self._places[tag] = _places(tag, self._exact)
        end = len(self.text)
        return all(self.base + at + place in self._marks for place in self._places[tag] if at + place < end)

    # Readers.

    def peek(self) -> Steps[str]:
        """The next character; "" at the end."""
        while self.at == len(self.text) and not self.last:
            yield
        return self.text[self.at : self.at + 1]

    def space(self, also: str = "") -> Steps[None]:
        """Behind white space, and the characters of `also`."""
        while (char := (yield from self.peek())) and char in SPACE + also:
            self.at += 1

    def which(self, *tags: str) -> Steps[str]:
        """The longest of the tags that stands here; "": none. Stays before it."""
        while any(self.may_stand(tag, self.at) for tag in tags):
            yield
        return max((tag for tag in tags if self.stands(tag, self.at)), key=len, default="")

    def takes(self, *tags: str) -> Steps[str]:
        """The same, and behind it."""
        tag = yield from self.which(*tags)
        self.at += len(tag)
        return tag

    def expect(self, *tags: str) -> Steps[str]:
        """Behind one of the tags. Raises Malformed where none stands."""
        tag = yield from self.takes(*tags)
        if not tag and "" not in tags:
            raise Malformed
        return tag

    def close(self, tag: str) -> Steps[None]:
        """Behind a closing tag; at the end of the text a part of it will do, or nothing. Raises Malformed."""
        if not (yield from self.takes(tag)) and tag:
            if not self.last or not tag.startswith(self.text[self.at :]):
                raise Malformed
            self.at = len(self.text)

    def until(self, *tags: str) -> Steps[str]:
        """The text before the first of the tags; stays before it. Raises Malformed where none comes."""
        start = seen = self.at
        while True:
            seen, tag = self.seek(tags, seen)
            if tag:
                self.at = seen
                return self.text[start:seen]
            if self.last:
                self.at = len(self.text)
                raise Malformed
            yield

    def json(self) -> Steps[str]:
        """A JSON object or array, as far as brackets and strings tell. Raises Malformed."""
        extent, start = Extent(), self.at
        yield from self.peek()
        while True:
            self.at, verdict = extent.feed(self.text, self.at)
            if verdict == "done":
                return self.text[start : self.at]
            if verdict == "bad" or self.last:
                raise Malformed
            yield


def _places(tag: str, literals: Iterable[str]) -> tuple[int, ...]:
    """Where literals stand in a tag: of several at one place the longest, none within another."""
    found = sorted((literal for literal in literals if literal in tag), key=len, reverse=True)
    return tuple(match.start() for match in re.finditer("|".join(map(re.escape, found)), tag)) if found else ()
