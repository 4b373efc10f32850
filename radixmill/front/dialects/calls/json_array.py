"""Calls as JSON objects one behind the other: `[TOOL_CALLS][{"name": "f", "arguments": {…}}, …]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radixmill.front.dialects.calls.base import (
    FENCE,
    Callee,
    Format,
    Reader,
    Tags,
    Target,
    constant,
    either,
    regex,
    sequence,
)
from radixmill.front.dialects.calls.json_object import JsonObject
from radixmill.front.dialects.scan import Scan, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonArray(JsonObject):
    """The section's opening tag ends with the array's bracket; white space before that is read, too. Behind the array
    stands `end`, or nothing."""

    section: Tags = Tags("<|tool_call|>[", "]")
    call: Tags = Tags()
    gap: str = ", "
    pad: str = ""
    end: str = ""  # may stand behind the array, and is never written

    @property
    def openers(self) -> tuple[str, ...]:
        return (self.section.open.removesuffix("[").rstrip(), *self.also)

    @property
    def tags(self) -> set[str]:
        return {*self.openers, self.end}

    @property
    def closer(self) -> str:
        return ""

    @property
    def fence(self) -> Tags:
        return FENCE

    def read(self, scan: Scan, tools: Mapping[str, Callee], *, inside: bool = False) -> Reader:
        if not inside:
            yield from scan.expect(*self.openers)
            yield from scan.space()
            yield from scan.expect("[")
            yield from scan.space()
            yield from self._one(scan, tools)
        while (yield from self._goes_on(scan)):
            yield from self._one(scan, tools)

    def _goes_on(self, scan: Scan) -> Steps[bool]:
        start = scan.at
        yield from scan.space()
        mark = yield from scan.takes(",", "]")
        if not mark:
            scan.at = start
        behind = scan.at
        yield from scan.space()
        if mark != "," and not (self.end and (yield from scan.takes(self.end))):
            scan.at = behind
        return mark == ","


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonRun(JsonObject):
    """Objects without brackets around them: `{"name": "f", "parameters": {…}}; {…}`. They stand behind `mark`, or first
    in an answer; there they are written."""

    call: Tags = Tags()
    gap: str = "; "
    pad: str = ""
    mark: str = "<|python_tag|>"
    first_openers: tuple[str, ...] = ("{",)
    arguments_keys: tuple[str, ...] = ("parameters", "arguments")
    other_keys: tuple[str, ...] | None = ("type", "id")

    @property
    def openers(self) -> tuple[str, ...]:
        return (self.mark,)

    @property
    def tags(self) -> set[str]:
        return {self.mark}

    @property
    def fence(self) -> Tags:
        return FENCE

    def read(self, scan: Scan, tools: Mapping[str, Callee], *, inside: bool = False) -> Reader:
        yield from scan.takes(self.mark)
        yield from scan.space()
        yield from self._one(scan, tools)
        while (yield from self._goes_on(scan)):
            yield from self._one(scan, tools)

    def _goes_on(self, scan: Scan) -> Steps[bool]:
        """Whether another object follows. What separates them is text where none does."""
        start = scan.at
        yield from scan.space()
        if (yield from scan.takes(self.gap.strip())):
            yield from scan.space()
            if (yield from scan.which("{")):
                return True
        scan.at = start
        return False

    def all_written(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """With the mark: so they are calls behind text, too."""
        return f"{self.mark}{JsonObject.all_written(self, calls)}"

    def instead(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        """Behind the mark: what begins with a brace is the answer."""
        return sequence(constant(self.mark), self.only(targets, parallel=parallel))

    def among_text(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        """An answer that begins with a brace is calls; in one that does not, the mark begins some."""
        run = self._run(targets, parallel)
        marked = {"type": "tag", "begin": self.mark, "content": run, "end": ""}
        text = {
            "type": "triggered_tags",
            "triggers": [self.mark],
            "tags": [marked],
            "at_least_one": False,
            "stop_after_first": True,
        }
        return either(run, marked, regex(_NO_TEXT), sequence(regex(_TEXT), text))


# The beginning of a text that is no call, up to where the mark may begin; and such a text that is nothing more.
_TEXT = r"\s*([^\s{<]|<+[^<|])"
_NO_TEXT = r"\s*<*"
