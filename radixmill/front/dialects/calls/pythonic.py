"""Calls in Python's own words: `[f(a=1, b="x"), g()]`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radixmill.front.dialects.calls.base import (
    FENCE,
    LAST_LINE,
    NO_ARGUMENTS,
    Begun,
    Callee,
    Calls,
    Format,
    Given,
    Reader,
    Tags,
    Target,
    ToolShape,
    Whole,
    constant,
    either,
    json_schema,
    regex,
    sequence,
    word,
)
from radixmill.front.dialects.calls.members import members_format
from radixmill.front.dialects.calls.python_literal import literal
from radixmill.front.dialects.scan import Malformed, Scan, Steps

_NO_TEXT = r"\s*\[*"  # a text that is no list of calls, and nothing more


@dataclass(frozen=True, slots=True, kw_only=True)
class Pythonic(Calls):
    """A list of calls with named arguments, perhaps in tags (`wrap`). All of one list are calls, or none is.

    Arguments are literals of JSON or Python. `f(**{"a": 1})` is read, too: so a grammar can bind any schema.
    """

    section: Tags = Tags("[", "]")
    call: Tags = Tags()
    gap: str = ", "
    wrap: Tags = Tags("<|python_start|>", "<|python_end|>")

    @property
    def openers(self) -> tuple[str, ...]:
        return (self.section.open, self.wrap.open) if self.wrap.open else (self.section.open,)

    @property
    def tags(self) -> set[str]:
        return {*self.wrap}

    @property
    def closer(self) -> str:
        return ""

    # --- reading

    def read(self, scan: Scan, tools: Mapping[str, Callee], *, inside: bool = False) -> Reader:
        if inside:
            return
        if wrapped := self.wrap.open and (yield from scan.takes(self.wrap.open)):
            yield from scan.space()
        yield from scan.expect(self.section.open)
        while True:
            yield from self.body(scan, tools)
            yield from scan.space()
            if (yield from scan.expect(",", self.section.close)) == self.section.close:
                break
            yield from scan.space()
        if wrapped:
            yield from self._unwrapped(scan)
        yield Whole()

    def _unwrapped(self, scan: Scan) -> Steps[None]:
        start = scan.at
        yield from scan.space()
        if not (yield from scan.takes(self.wrap.close)):
            scan.at = start

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        name = yield from word(scan)
        yield from scan.expect("(")
        if name not in tools:
            raise Malformed
        yield Begun(name)
        if tools[name].shape == "text":
            yield from scan.expect(FENCE.open)
            yield from self.free_text(scan)
        else:
            yield from self._arguments(scan)

    def _arguments(self, scan: Scan) -> Reader:
        """Up to behind the parenthesis."""
        yield from scan.space()
        if (yield from scan.takes("**")):
            yield from self._unpacked(scan)
            return
        seen: set[str] = set()
        yield Given("{")
        while not (yield from scan.takes(")")):
            key = yield from self._key(scan, seen)
            value = yield from literal(scan)
            yield Given(f"{', ' if len(seen) > 1 else ''}{key}: {value}")
            yield from scan.space()
            if (yield from scan.expect(",", ")")) == ")":
                break
            yield from scan.space()
        yield Given("}")

    def _unpacked(self, scan: Scan) -> Reader:
        yield from scan.space()
        if not (yield from scan.which("{")):
            raise Malformed
        yield Given((yield from literal(scan)))
        yield from scan.space()
        yield from scan.expect(")")

    def _key(self, scan: Scan, seen: set[str]) -> Steps[str]:
        """JSON of a name, which was not seen; behind the sign that follows it."""
        key = json.dumps((yield from word(scan)), ensure_ascii=False)
        if key in seen:
            raise Malformed
        seen.add(key)
        yield from scan.space()
        yield from scan.expect("=")
        yield from scan.space()
        return key

    # --- writing

    def head(self, name: str, shape: ToolShape = "object") -> str:
        return f"{name}({FENCE.open}" if shape == "text" else f"{name}("

    def tail(self, shape: ToolShape = "object") -> str:
        return f"{FENCE.close})" if shape == "text" else ")"

    def written(self, name: str, arguments: Mapping[str, Any]) -> str:
        if all(map(str.isidentifier, arguments)):
            pairs = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
            return f"{self.head(name)}{', '.join(pairs)}{self.tail()}"
        return f"{self.head(name)}**{json.dumps(arguments, ensure_ascii=False)}{self.tail()}"

    # --- grammar

    def content(self, target: Target) -> Format:
        if target.shape == "text":
            return target.text
        if target.schema == NO_ARGUMENTS:
            return constant("")
        named = members_format(target.schema, "{}=".format, json_schema, ", ")
        return named or sequence(constant("**"), json_schema(target.schema))

    def instead(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        """The bracket is a lexeme of its own, as it is in JSON: `[f(` could not become `[false`."""
        open, close = self.section
        bracket = {"type": "tag", "begin": open, "content": constant(""), "end": ""}
        apart = {"type": "tags_in_order", "tags": [bracket], "required": [True]}
        return sequence(apart, self._run(targets, parallel), constant(close), LAST_LINE if parallel else None)

    def among_text(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        """A list of calls; or text that begins otherwise, in which lists of one call may begin."""
        open, close = self.section
        tags = [self.tag(target) for target in targets]
        alone = [{**tag, "begin": open + tag["begin"], "end": tag["end"] + close} for tag in tags]
        text = {
            "type": "triggered_tags",
            "triggers": [open + self.head(target.name) for target in targets],
            "tags": alone,
            "at_least_one": False,
            "stop_after_first": not parallel,
        }
        return either(self.only(targets, parallel=parallel), regex(_NO_TEXT), sequence(regex(_text(targets)), text))


def _text(targets: Sequence[Target]) -> str:
    """The beginning of a text that is no list of calls: behind a bracket stands nothing that begins a name."""
    first = "".join(sorted({rf"\x{{{ord(target.name[0]):x}}}" for target in targets}))
    return rf"\s*([^\s\[]|\[+[^\[A-Za-z_{first}])"
