"""What is common to all forms of tool calls: sections, one call behind the other, the grammar around them.

A form is a frozen dataclass: its fields are what differs between families. It says three things: how one call is read
(`call`), how it is written (`head`, `tail`, `written`), and what a grammar lets stand in between (`content`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from radixmill.front.dialects.extent import SPACE
from radixmill.front.dialects.scan import Malformed, Scan, Steps

ToolShape = Literal["object", "input", "text"]
"""How a call passes its input on.

object   JSON arguments
input    free text, wrapped as `{"input": "…"}`
text     free text as it is, behind the call's head, to its tail: a grammar of the text can bind it there
"""

Format = dict[str, Any]
"""A format of structural tags, as XGrammar describes them (https://xgrammar.mlc.ai/docs): JSON."""

Schema = dict[str, Any]
NO_NAME = frozenset(SPACE + "\"'`{}[]()<>,;=")  # what no name of a tool has in it
# Behind its calls many a model writes a line end and ends its answer, or an empty line and would go on with text. Where
# these could only be the gap before another call, it would write calls without end.
LAST_LINE: Format = {"type": "optional", "content": {"type": "regex", "pattern": r"\n{1,2}"}}
NO_ARGUMENTS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
INPUT: Schema = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class Callee(NamedTuple):
    """A tool that may be called, as a reader knows it. `parameters`: the JSON Schema of its arguments; None: unknown.
    `bound`: a grammar sees to it that they are written, and as that says."""

    shape: ToolShape = "object"
    parameters: Schema | None = None
    bound: bool = False


class Target(NamedTuple):
    """A tool that may be called, as a grammar knows it.

    `schema`: what binds its arguments, of shape "object" and "input"; `text`: what binds the text, of shape "text".
    """

    name: str
    shape: ToolShape = "object"
    schema: Schema = {"type": "object"}
    text: Format = {}


class Begun(NamedTuple):
    """A call was begun. `id`: as the model wrote it, where it does."""

    name: str
    id: str = ""


class Given(NamedTuple):
    """More of its arguments' JSON, or of its text."""

    text: str


class Known(NamedTuple):
    """The id of the call that was begun last, where the model writes it behind the name."""

    id: str


class Whole(NamedTuple):
    """All calls so far are whole."""


Found = Begun | Given | Known | Whole
Reader = Steps[None]
"""Yields None for more text, else a Found; raises Malformed where there is no call."""


class Tags(NamedTuple):
    open: str = ""
    close: str = ""


FENCE = Tags("\n<input>\n", "\n</input>")
"""Around an input of shape "text" where the family's calls have no closing tag that could end it. Our own invention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls(ABC):
    """A form of calls.

        section.open  call.open … call.close  gap  call.open … call.close  section.close

    `gap`: white space and the like that the family's models write between two calls, `inset` within the tags of a
    section; any white space is read there.
    """

    section: Tags = Tags()
    call: Tags = Tags()
    gap: str = "\n"
    inset: str = ""
    between: str = ""  # characters that may stand between calls, besides white space
    bare: bool = False  # calls count outside a section, too
    first_openers: tuple[str, ...] = ()  # what begins calls, besides, where nothing visible stands before
    also: tuple[str, ...] = ()  # other spellings of the tag that begins calls, read like it

    # --- tags

    @property
    def openers(self) -> tuple[str, ...]:
        """What begins calls."""
        if not self.section.open:
            return (self.call.open, *self.also)
        return (self.section.open, *self.also, *([self.call.open] if self.bare else []))

    @property
    def tags(self) -> set[str]:
        """What must be seen in the text."""
        return {*self.section, *self.call, *self.also}

    @property
    def closer(self) -> str:
        """How far a call that is none reaches; "": no farther than what was wrong."""
        return self.call.close or self.section.close

    # --- reading

    def read(self, scan: Scan, tools: Mapping[str, Callee], *, inside: bool = False) -> Reader:
        """The calls that begin here: a whole section, or one call. `inside`: behind a call of a section."""
        if not inside:
            if not self.section.open or not (yield from scan.takes(self.section.open, *self.also)):
                yield from self._one(scan, tools)
                return
            yield from scan.space()
            yield from self._one(scan, tools)
        while (yield from self._section_goes_on(scan, behind_call=not inside)):
            yield from self._one(scan, tools)
            inside = False

    def _section_goes_on(self, scan: Scan, *, behind_call: bool) -> Steps[bool]:
        """Whether another call of the section follows. If its end does, the scan is behind that; else it stays. Behind
        a call a part of it will do at the end of the text."""
        start = scan.at
        yield from scan.space(also=self.between)
        if (yield from scan.takes(self.section.close)):
            return False
        if (yield from scan.which(self.call.open)):
            return True
        scan.at = len(scan.text) if behind_call and scan.ends_within(self.section.close) else start
        return False

    def _one(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        yield from scan.expect(self.call.open, *(() if self.section.open else self.also))
        yield from self.body(scan, tools)
        if self.call.close:
            yield from scan.space()
            yield from scan.close(self.call.close)
        yield Whole()

    @abstractmethod
    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        """One call between its tags."""

    def free_text(self, scan: Scan) -> Reader:
        """Input of shape "text", up to where the tail begins."""
        yield Given((yield from scan.until(self.tail("text"))))
        scan.at += len(self.tail("text")) - len(self.call.close)

    def is_begun(self, rest: str, name: str, shape: ToolShape) -> bool:
        """Whether this is how a call of that tool begins, up to its input, or how a section ends."""
        head = self.head(name, shape)
        ways = (
            head,
            self.gap + head,
            self.around.close,
            *(before + head for before in (self.around.open, *self.openers)),
        )
        return any(way.startswith(rest) for way in ways)

    # --- writing

    @abstractmethod
    def head(self, name: str, shape: ToolShape = "object") -> str:
        """A call, its opening tag included, up to where its input begins."""

    @abstractmethod
    def tail(self, shape: ToolShape = "object") -> str:
        """A call from where its input ends."""

    def written(self, name: str, arguments: Mapping[str, Any]) -> str:
        """An earlier call as the model would have written it."""
        return f"{self.head(name)}{json.dumps(arguments, ensure_ascii=False)}{self.tail()}"

    def all_written(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """All calls of an answer."""
        around = self.around
        return f"{around.open}{self.gap.join(self.written(*call) for call in calls)}{around.close}"

    @property
    def around(self) -> Tags:
        return Tags(self.section.open + self.inset, self.inset + self.section.close)

    # --- grammar

    def content(self, target: Target) -> Format:
        """What stands between head and tail."""
        if target.shape == "text":
            return target.text
        return constant("{}") if target.schema == NO_ARGUMENTS else json_schema(target.schema)

    def only(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        """One call or, with `parallel`, more, and nothing else."""
        run, around = self._run(targets, parallel), self.around
        return sequence(constant(around.open), run, constant(around.close), LAST_LINE if parallel else None)

    def instead(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        """The same where an answer of the client's own form, JSON perhaps, may stand in their place. Two ways that begin
        alike must not be one lexeme as far as that goes: the library's lexer doesn't go back."""
        return self.only(targets, parallel=parallel)

    def among_text(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        """Free text, in which the first opening tag begins calls; the others, which are read like it, are never written."""
        tags, once = [self.tag(target) for target in targets], not parallel
        if self.section.open:
            run, around = self._run(targets, parallel), self.around
            tags, once = [{"type": "tag", "begin": around.open, "content": run, "end": around.close}], True
        return {
            "type": "triggered_tags",
            "triggers": [self.openers[0]],
            "excludes": list(self.openers[1:]),
            "tags": tags,
            "at_least_one": False,
            "stop_after_first": once,
        }

    def _run(self, targets: Sequence[Target], parallel: bool) -> Format:
        return {
            "type": "tags_with_separator",
            "tags": [self.tag(target) for target in targets],
            "separator": self.gap,
            "at_least_one": True,
            "stop_after_first": not parallel,
        }

    def tag(self, target: Target) -> Format:
        begin, end = self.head(target.name, target.shape), self.tail(target.shape)
        return {"type": "tag", "begin": begin, "content": self.content(target), "end": end}


def word(scan: Scan, *ends: str) -> Steps[str]:
    """A name: up to white space, a bracket, a quote or one of the ends. Raises Malformed where there is none."""
    start = scan.at
    while not (yield from scan.which(*ends)):
        if not (char := (yield from scan.peek())) or char in NO_NAME:
            break
        scan.at += 1
    if scan.at == start:
        raise Malformed
    return scan.text[start : scan.at]


def json_schema(schema: Any) -> Format:
    """JSON that matches a JSON Schema, in the layout of calls: one line, as chat templates write it. A small model that
    may lay it out fills its answer with blanks."""
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}


def constant(text: str) -> Format:
    return {"type": "const_string", "value": text}


def sequence(*elements: Format | None) -> Format:
    """One behind the other; empty texts, and None, are left out."""
    kept = [element for element in elements if element and element != constant("")]
    return kept[0] if len(kept) == 1 else {"type": "sequence", "elements": kept}


def either(*formats: Format) -> Format:
    return {"type": "or", "elements": list(formats)}


def regex(pattern: str) -> Format:
    return {"type": "regex", "pattern": pattern}
