"""A cursor in a text that is still being written. Readers of it are generators: each None they yield asks for more text.

What a reader decides must not depend on how the text was cut: it waits wherever more text could change its mind.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

from radixmill.front.dialects.extent import SPACE, Extent

T = TypeVar("T")
Steps = Generator[Any, None, T]
"""A reader: what it yields is for whoever runs it, None asks for more text; T is what it has found in the end."""


NEVER = r"(?!)"  # a pattern that matches nowhere


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

    def push(self, text: str) -> None:
        """More of the text."""
        whole, self.text = self.text, ""  # nobody else holds it, so it grows in place
        whole += text
        self.text = whole

    def drop(self) -> None:
        """Forget the text before `at`, if that is most of it. Indexes may change."""
        if 2 * self.at < len(self.text):
            return
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

    def ends_within(self, tag: str) -> bool:
        """Whether all that is left of the whole text is a beginning of the tag."""
        return (
            self.last
            and self.at < len(self.text)
            and tag.startswith(self.text[self.at :])
            and self._counts(tag, self.at)
        )

    def seek(self, tags: Iterable[str], start: int) -> tuple[int, str]:
        """Where the first of the tags begins, and which; else how far there surely is none, and "". Of several at one
        place the longest; while one may be longer, none is told. Takes no longer than the text up to there is."""
        if not (tags := tuple(tags)):
            return len(self.text), ""
        whole, cut_off = _patterns(tags)
        found = self._first(whole, tags, start)
        if not self.last:
            found = self._cut_off(cut_off, tags, max(start, len(self.text) - max(map(len, tags))), found)
        return found

    def _first(self, whole: re.Pattern[str], tags: Sequence[str], start: int) -> tuple[int, str]:
        """The first place where a whole tag stands."""
        while match := whole.search(self.text, start):
            if tag := max((tag for tag in tags if self.stands(tag, match.start())), key=len, default=""):
                return match.start(), tag
            start = match.start() + 1
        return len(self.text), ""

    def _cut_off(
        self, cut_off: re.Pattern[str], tags: Sequence[str], start: int, found: tuple[int, str]
    ) -> tuple[int, str]:
        """The first place, not behind the one found, where the end of the text may cut off a tag; else the one found."""
        while (match := cut_off.search(self.text, start)) and match.start() <= found[0] < len(self.text) + 1:
            if any(self.may_stand(tag, match.start()) for tag in tags):
                return match.start(), ""
            start = match.start() + 1
        return found

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
            if not self.last or (self.at < len(self.text) and not self.ends_within(tag)):
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


@cache
def _patterns(tags: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds any of the tags, and what finds where one may be cut off by the end of the text."""
    kept = [tag for tag in tags if tag]
    whole = "|".join(map(re.escape, sorted(kept, key=len, reverse=True)))
    cut_off = "|".join(f"{re.escape(tag[0])}{_cut_off_behind(tag[1:-1])}" for tag in kept if len(tag) > 1)
    return re.compile(whole or NEVER), re.compile(f"(?:{cut_off or NEVER})\\Z")


def _cut_off_behind(text: str) -> str:
    """Any beginning of it, as a pattern."""
    pattern = ""
    for char in reversed(text):
        pattern = f"(?:{re.escape(char)}{pattern})?"
    return pattern
